"""The kernels for a build's notebooks: on Linux, forks of a process that has imported their packages (`forks.py`)."""

import json
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
from perceptual_lib.runs.processes import usable_cores


class Kernels(ExitStack):
    """Kernels for a clone's notebooks, on half of the cores: games run beside them. On exit, the forks' parent ends."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        threads = max(1, usable_cores() // 2)
        memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # the settings of `Worker`
        self.environment = {"OMP_NUM_THREADS": str(threads)} | memory | environment(root)
        self.lock = Lock()

    def manager(self, folder: Path, log: TextIO) -> type[AsyncKernelManager]:
        """A kernel manager for papermill. The kernel's own messages (transport, shutdown) go to the log."""
        kernels = self

        class Manager(AsyncKernelManager):
            def start_kernel(self, **options: Any) -> Awaitable[None]:
                if sys.platform == "linux":  # other systems' own libraries may not be used in a fork
                    self.provisioner = _Forks(kernel_spec=self.kernel_spec, parent=self)
                    self.provisioner.kernels = kernels
                    # Another program could take a TCP port before the first fork binds it. This is the name of a socket
                    # that needs no file.
                    self.transport, self.ip = "ipc", f"@kernel-{uuid4()}"
                return super().start_kernel(stderr=log, env=kernels.environment, cwd=str(folder), **options)

        return Manager

    def fork(self, told: dict[str, Any]) -> "_Fork":
        """Fork a kernel with these arguments, folder, environment and log."""
        ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with its, self.lock:
            socket.send_fds(self.forks, [json.dumps(told).encode()], [its.fileno()])
        return _Fork(ours)

    @cached_property
    def forks(self) -> socket.socket:
        """The socket of the process that forks kernels; the first kernel starts it."""
        ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        command = [sys.executable, Path(__file__).with_name("forks.py"), str(its.fileno())]
        with its:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()], start_new_session=True
            )
        self.enter_context(process)  # on exit, waits for the process, which ends once the socket below is closed
        return self.enter_context(ours)


class _Forks(LocalProvisioner):
    """Forks the kernel that jupyter_client would otherwise start."""

    kernels: Kernels

    async def launch_kernel(
        self, cmd: list[str], *, env: dict[str, str], cwd: str, stderr: TextIO, **_: Any
    ) -> dict[str, Any]:
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.process = self.kernels.fork({"arguments": arguments, "cwd": cwd, "env": env, "log": stderr.name})
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class _Fork:
    """A forked kernel with the interface of `subprocess.Popen`."""

    stdin = stdout = stderr = returncode = None

    def __init__(self, channel: socket.socket) -> None:
        if not (told := channel.recv(16)):
            raise InputError("the process that kernels are forked from has ended; it may need more memory.")
        self.channel, self.pid = channel, int(told)

    def poll(self) -> int | None:
        """None while it runs, 0 once it has ended and so closed the channel: nobody asks for the real exit status."""
        if self.returncode is None and select.select([self.channel], [], [], 0)[0]:
            self.returncode = 0
            self.channel.close()
        return self.returncode

    wait = poll  # called only when it has ended

    def send_signal(self, number: int) -> None:
        """Do nothing: jupyter_client calls this only when the kernel's process group is gone."""
