"""The kernels of a build: on Linux, forks of one process that has imported their packages (`forks.py`)."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Awaitable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, TextIO
from uuid import uuid4

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from perceptual_lib.book.pages import environment
from perceptual_lib.core.errors import InputError


class Kernels(ExitStack):
    """Of a clone's notebooks, which share the cores with what runs beside them. On exit their forking process ends."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        threads = max(1, (os.cpu_count() or 1) // 2)
        memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as `Worker` tells glibc
        self.environment = {"OMP_NUM_THREADS": str(threads)} | memory | environment(root)
        self.lock = Lock()

    def manager(self, folder: Path, log: TextIO) -> type[AsyncKernelManager]:
        """Of a kernel for papermill. What that says of itself (its transport, its shutdown) is not for the terminal."""
        kernels = self

        class Manager(AsyncKernelManager):
            def start_kernel(self, **options: Any) -> Awaitable[None]:
                if sys.platform == "linux":  # elsewhere systems' own libraries may not be used in a fork
                    self.provisioner = _Forks(kernel_spec=self.kernel_spec, parent=self)
                    self.provisioner.kernels = kernels
                    # A port of TCP could be another program's by the time that the first fork asks for it. This is the
                    # name of a socket that needs no file.
                    self.transport, self.ip = "ipc", f"@kernel-{uuid4()}"
                return super().start_kernel(stderr=log, env=kernels.environment, cwd=str(folder), **options)

        return Manager

    def fork(self, told: dict[str, Any]) -> "_Fork":
        """A kernel that is told its arguments, folder, environment and log."""
        ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with its, self.lock:
            socket.send_fds(self.forks, [json.dumps(told).encode()], [its.fileno()])
        return _Fork(ours)

    @cached_property
    def forks(self) -> socket.socket:
        """Where the process is talked to that forks them: started with the first one."""
        ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        command = [sys.executable, Path(__file__).with_name("forks.py"), str(its.fileno())]
        with its:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()], start_new_session=True
            )
        self.enter_context(process)  # waits for its end, of which the next line tells it
        return self.enter_context(ours)


class _Forks(LocalProvisioner):
    """Has the kernel forked that jupyter_client would start."""

    kernels: Kernels

    async def launch_kernel(
        self, cmd: list[str], *, env: dict[str, str], cwd: str, stderr: TextIO, **_: Any
    ) -> dict[str, Any]:
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.process = self.kernels.fork({"arguments": arguments, "cwd": cwd, "env": env, "log": stderr.name})
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class _Fork:
    """A kernel, as `subprocess.Popen` would stand for it."""

    stdin = stdout = stderr = returncode = None

    def __init__(self, channel: socket.socket) -> None:
        if not (told := channel.recv(16)):
            raise InputError("the process that kernels are forked from has ended; it may need more memory.")
        self.channel, self.pid = channel, int(told)

    def poll(self) -> int | None:
        """Not None when it has ended, and with it its end of the channel; nobody asks how."""
        if self.returncode is None and select.select([self.channel], [], [], 0)[0]:
            self.returncode = 0
            self.channel.close()
        return self.returncode

    wait = poll  # it has ended then

    def send_signal(self, number: int) -> None:
        """What is left to be done where its process group is no more: nothing."""
