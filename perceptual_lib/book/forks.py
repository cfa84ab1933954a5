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
    """Fork a kernel for each message of the build, one after the other; tell it its number, and how it ended."""
    while told := build.recv(1 << 20):
        kernel = os.fork()
        if not kernel:
            build.close()
            return become_kernel(**json.loads(told))
        os.setpgid(kernel, kernel)
        build.send(b"%d" % kernel)
        while (ended := os.waitpid(kernel, os.WNOHANG)) == (0, 0):
            if select.select([build], [], [], 0.1)[0]:
                return  # the build is no more: the kernel ends when it sees that this process is none either
        build.send(b"%d" % os.waitstatus_to_exitcode(ended[1]))


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
