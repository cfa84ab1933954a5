"""A kind of shard that kills the process that computes it: at once, later, or in the middle of its answer.

Pools wait for the rest of it (python/cpython#105829, noxdafox/pebble#163).
"""

import os
import signal
import struct
import time
from multiprocessing.connection import Connection


def compute(classifier, pictures, halfway=False, later=0.0):
    time.sleep(later)
    if halfway:
        Connection._send_bytes = _send_half
        return {}
    os.kill(os.getpid(), signal.SIGKILL)


def _send_half(connection: Connection, message: bytes) -> None:
    os.write(connection.fileno(), struct.pack("!i", len(message)) + message[: len(message) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
