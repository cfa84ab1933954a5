"""Several processes of this machine.

Nothing that takes long is imported here, so that a new process ignores Ctrl-C before it loads torch.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import Any

from perceptual_lib.core.errors import InputError, MachineError, see

ATTEMPTS = 3  # to compute a shard whose worker dies
ANY_GPU = "auto", "cuda"  # names of devices that leave open which one
PER_GPU = 8  # workers: more of them only take turns
NO_GUARD = 97  # exit status
WORKER_MEMORY = 6e9  # bytes of a GPU, for one worker


def usable_cores() -> int:
    """Of those of the machine: a batch system, or `taskset`, may leave a process fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(classifier: Mapping[str, Any]) -> int:
    """Workers that this machine has room for: one per core, and no more than share its GPUs well."""
    import torch

    device = classifier.get("device", "auto")
    if device == "cpu" or not torch.cuda.is_available():
        return usable_cores()
    memory = [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())]
    if device not in ANY_GPU:
        memory = memory[:1]
    return max(1, min(usable_cores(), sum(min(PER_GPU, int(each / WORKER_MEMORY)) for each in memory)))


class Processes:
    """Several processes of this machine, as many as have `room` where `workers` is None; `classifier` as for `Local`.

    Where there are GPUs they share them: one scores its maps while another computes the next ones. Each has a
    connection of its own, which ends with it: the standard library's pool loses all of its processes with one of them,
    and waits for ever where that one was killed while it wrote its answer.
    """

    death = BrokenExecutor
    attempts = ATTEMPTS

    def __init__(self, classifier: Mapping[str, Any], workers: int | None = None) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.exit(NO_GUARD)  # a worker's process that has come to what starts workers
        self.capacity = workers or room(classifier)
        self.classifier = dict(classifier)
        self.threads = ThreadPoolExecutor(self.capacity)  # each waits for a worker's answer
        self.workers: dict[int, _Worker] = {}
        self.idle: LifoQueue[int] = LifoQueue()  # numbers of workers; the last one has its network loaded
        for number in reversed(range(self.capacity)):
            self.idle.put(number)
        self.lock, self.closed = threading.Lock(), False

    def submit(self, name: str, *arguments: Any) -> Future:
        return self.threads.submit(self._call, name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        number = self.idle.get()
        try:
            error, answer = self._worker(number).ask(name, arguments)
        except (EOFError, OSError):
            if (dead := self.workers.pop(number, None)) is not None:
                dead.process.join()
                if dead.process.exitcode == NO_GUARD:
                    raise InputError(
                        "each new process runs the main script again, and starts processes there: put what the script "
                        f"does under if __name__ == '__main__':{see('A script that starts processes')}"
                    ) from None
            raise BrokenExecutor from None
        finally:
            self.idle.put(number)
        if error is not None:
            raise error
        return answer

    def _worker(self, number: int) -> "_Worker":
        """The worker of this number, started where there is none."""
        with self.lock:
            if self.closed:
                raise BrokenExecutor
            if number not in self.workers:
                try:
                    self.workers[number] = _Worker(self.classifier, number)
                except OSError as error:
                    raise MachineError(f"no process can be started here ({error}){see('The machine')}.") from error
            return self.workers[number]

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        with self.lock:
            self.closed = True
            for worker in list(self.workers.values()):
                worker.process.terminate()
        self.threads.shutdown()


class _Worker:
    """A process that answers, and the connection to it; `number` says which one it is of several.

    Raises EOFError or OSError as soon as the process is no longer there.
    """

    def __init__(self, classifier: Mapping[str, Any], number: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch's threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_answer, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.send((classifier, number))

    def ask(self, name: str, arguments: tuple[Any, ...]) -> tuple[Exception | None, Any]:
        """What the worker's method raises, and what it returns."""
        self.connection.send((name, arguments))
        return self.connection.recv()


def _answer(connection: Connection) -> None:
    """What a worker's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle, which then ends its workers
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
    """A run that is killed cannot end its workers: they would compute, and wait for more, for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
