"""A process that has imported the packages of every notebook, and forks kernels: else each kernel takes six seconds.

`kernels.py` runs this file as a script, and talks to it on a socket, whose number it gets. Nothing of this library is
imported: a kernel finds the clone's own.
"""

import gc
import json
import os
import runpy
import select
import socket
import sys
from contextlib import suppress
from importlib import import_module

PACKAGES = """
    ipykernel.kernelapp anywidget torch torchvision timm pandas pyarrow.parquet scipy.stats seaborn pydantic
    huggingface_hub
""".split()
"""None asks for a GPU when it is imported: CUDA cannot be used in a fork of a process that did."""


def fork_kernels(build: socket.socket) -> None:
    """Fork a kernel for each message of the build, and tell it, where the message says, its number and how it ended."""
    running: dict[int, socket.socket] = {}
    while True:
        if select.select([build], [], [], 0.1)[0]:
            told, channels, *_ = socket.recv_fds(build, 1 << 20, 1)
            if not told:
                return  # the build is no more: kernels end when they see that this process is none either
            channel = socket.socket(fileno=channels[0])
            kernel = os.fork()
            if not kernel:
                for inherited in (build, channel, *running.values()):
                    inherited.close()
                return become_kernel(**json.loads(told))
            os.setpgid(kernel, kernel)
            channel.send(b"%d" % kernel)
            running[kernel] = channel
        for kernel in list(running):
            ended, status = os.waitpid(kernel, os.WNOHANG)
            if ended:
                with suppress(OSError), running.pop(kernel) as channel:  # nobody may want to know
                    channel.send(b"%d" % os.waitstatus_to_exitcode(status))


def become_kernel(arguments: list[str], cwd: str, env: dict[str, str], log: str) -> None:
    """Run `ipykernel_launcher` as a process of its own would."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env, JPY_PARENT_PID=str(os.getppid()))
    sys.argv[1:] = arguments
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    # Read on import: what a kernel ends with, and where it draws.
    os.environ["JPY_PARENT_PID"] = str(os.getpid())
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in PACKAGES:
        with suppress(ImportError):  # the notebook says so
            import_module(name)
    gc.freeze()
    fork_kernels(socket.socket(fileno=int(sys.argv[1])))
