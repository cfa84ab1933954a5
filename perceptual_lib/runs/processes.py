"""Several processes of this machine.

Nothing that takes long is imported here, so that a new process ignores Ctrl-C before it loads torch.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from multiprocessing.connection import Connection
from typing import Any

from perceptual_lib.core.errors import InputError, MachineError, see

ANY_GPU = "auto", "cuda"  # names of devices that leave open which one
PER_GPU = 8  # workers: more of them would only take turns
NO_GUARD = 97  # exit status of a worker whose main script has no guard, and would start workers itself
WORKER_MEMORY = 6e9  # bytes of a GPU, for one worker


def usable_cores() -> int:
    """Cores that this process may use: a batch system, or `taskset`, may leave it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(classifier: Mapping[str, Any]) -> int:
    """How many workers this machine has room for: one per core, but no more than can share its GPUs well."""
    import torch

    device = classifier.get("device", "auto")
    if device == "cpu" or not torch.cuda.is_available():
        return usable_cores()
    gpus = range(torch.cuda.device_count()) if device in ANY_GPU else [torch.device(device).index]
    memory = [torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus]
    return max(1, min(usable_cores(), sum(min(PER_GPU, int(each / WORKER_MEMORY)) for each in memory)))


class Pool:
    """Workers, called from threads. When one dies, the others live on, and the next call starts a new one in its place.

    The standard library's pool loses all of its processes when one dies, and waits for ever if that one was killed
    while it wrote its answer.

    Args:
        capacity: how many workers.
        start: makes the worker with a given number. Its `ask(name, arguments)` calls one of its methods, and raises
            BrokenExecutor if it has died; its `end()` ends it immediately.
    """

    def __init__(self, capacity: int, start: Callable[[int], Any]) -> None:
        self.capacity, self.start = capacity, start
        self.threads = ThreadPoolExecutor(capacity)  # each waits for a worker's answer
        self.workers: dict[int, Any] = {}
        self.idle = list(reversed(range(capacity)))  # numbers; the last was used last: its network is loaded
        self.lock, self.closed = threading.Lock(), False

    def submit(self, name: str, *arguments: Any) -> Future:
        return self.threads.submit(self._call, name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        number = self.idle.pop()
        try:
            with self.lock:
                if self.closed:
                    raise BrokenExecutor
                if number not in self.workers:
                    self.workers[number] = self.start(number)
            return self.workers[number].ask(name, arguments)
        except BrokenExecutor:
            self.workers.pop(number, None)
            raise
        finally:
            self.idle.append(number)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        with self.lock:
            self.closed = True
            for worker in list(self.workers.values()):
                worker.end()
        self.threads.shutdown()


class Processes(Pool):
    """Several processes of this machine, as many as have `room` where `workers` is None; `classifier` as for `Local`.

    They share GPUs, if there are any: one process scores its maps while another computes the next ones.
    """

    def __init__(self, classifier: Mapping[str, Any], workers: int | None = None) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.exit(NO_GUARD)  # in a worker's process, which runs the main script again and has come to this line
        self.classifier = dict(classifier)
        super().__init__(workers or room(classifier), partial(_Process, self.classifier))

    def submit(self, name: str, *arguments: Any) -> Future:
        """Workers compute shards. This process answers questions about the network, so that they start no worker."""
        if name == "compute":
            return super().submit(name, *arguments)
        return self.threads.submit(getattr(self.here, name), *arguments)

    @cached_property
    def here(self) -> Any:
        from perceptual_lib.runs.worker import Worker

        return Worker(self.classifier)


class _Process:
    """A process with a worker, and a connection to it alone, which ends with the process."""

    def __init__(self, classifier: dict[str, Any], number: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch's threads may hang
        try:
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_answer, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
            self.connection.send((classifier, number))  # once it ignores Ctrl-C: to unpickle it may import torch
        except OSError as error:
            raise MachineError(f"no process can be started here ({error}){see('The machine')}.") from error

    def ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            self.connection.send((name, arguments))
            error, answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            if self.process.exitcode == NO_GUARD:
                raise InputError(
                    "each new process runs the main script again, and starts processes there: put what the script "
                    f"does under if __name__ == '__main__':{see('A script that starts processes')}"
                ) from None
            raise BrokenExecutor from None
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        self.process.terminate()


def _answer(connection: Connection) -> None:
    """The main function of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle, which then ends its workers
    gc.set_threshold(100_000)  # as in the command line: the imports below are faster so
    threading.Thread(target=_end_with_parent, daemon=True).start()
    classifier, number = connection.recv()
    import torch

    from perceptual_lib.runs.worker import Worker

    if classifier.get("device", "auto") in ANY_GPU and torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    worker = Worker(classifier)
    with suppress(EOFError, OSError):  # the run has ended
        while True:
            name, arguments = connection.recv()
            try:
                answer = None, getattr(worker, name)(*arguments)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = error, None
            connection.send(answer)


def _end_with_parent() -> None:
    """End this process with its parent. A run that is killed cannot end its workers, which would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
