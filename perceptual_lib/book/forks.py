"""A process that has imported the packages of every notebook, and forks kernels: else each kernel takes six seconds.

`kernels.py` runs this file as a script, passes it the number of a socket, and talks to it there. The process imports
nothing of this library: a kernel then finds the clone's own.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

PACKAGES = """
    ipykernel.kernelapp anywidget torch torchvision timm pandas pyarrow.parquet scipy.stats seaborn pydantic
    huggingface_hub
""".split()
"""None of them initializes CUDA on import: a fork of a process that did could not use it."""


def fork_kernels(build: socket.socket) -> None:
    """Fork a kernel for each message of the build, until the build closes the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing here waits for kernels that end
    while True:
        told, channels, *_ = socket.recv_fds(build, 1 << 20, 1, socket.MSG_CMSG_CLOEXEC)
        if not told:
            return  # kernels see that this process, their parent, has ended, and end, too
        if not os.fork():
            build.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return become_kernel(*channels, **json.loads(told))
        os.close(*channels)


def become_kernel(channel: int, arguments: list[str], cwd: str, env: dict[str, str], log: str) -> None:
    """Run `ipykernel_launcher` as in a new process. Its id is written to the channel, which closes when it ends."""
    os.setpgid(0, 0)
    os.write(channel, b"%d" % os.getpid())
    with open(log, "a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env, JPY_PARENT_PID=str(os.getppid()))
    sys.argv[1:] = arguments
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    # Read on import: the process with which a kernel ends, and the backend for figures.
    os.environ["JPY_PARENT_PID"] = str(os.getpid())
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    gc.disable()  # garbage collection would take a fifth of the time of the imports
    for name in PACKAGES:
        with suppress(Exception):  # whatever a package raises, the notebook raises again and shows
            import_module(name)
    gc.freeze()
    gc.enable()
    fork_kernels(socket.socket(fileno=int(sys.argv[1])))
