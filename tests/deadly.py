"""A kind of shard that kills the process that computes it."""

import os
import signal


def compute(classifier, pictures, **arguments):
    os.kill(os.getpid(), signal.SIGKILL)
