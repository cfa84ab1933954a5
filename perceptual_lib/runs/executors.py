"""Where shards are computed: in this process, in several, or in the actors of a Ray cluster.

Whatever it is, a shard is the same images in the same order on one thread: its numbers are the same bits on one kind
of device.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import torch

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs.worker import Worker

ATTEMPTS = 3  # of a shard whose worker dies
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


class Executor(Protocol):
    """Where shards are computed.

    Attributes:
        capacity: calls at once.
        death: what a call ends with whose worker was killed.
        attempts: deaths in a row until a run gives up; before that it calls `restart`, and submits again.
    """

    capacity: int
    death: Any
    attempts: int

    def submit(self, name: str, *arguments: Any) -> Future:
        """A worker's method by name, called with the arguments."""

    def restart(self) -> None:
        """New workers in place of the old ones, whose calls are lost."""

    def close(self) -> None:
        """End all workers at once."""


class Local:
    """This process."""

    capacity = 1
    death: tuple = ()
    attempts = 1

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        self.worker = Worker(classifier)

    def submit(self, name: str, *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(getattr(self.worker, name)(*arguments))
        return future

    def restart(self) -> None:
        raise AssertionError("this process is alive")

    def close(self) -> None:
        pass


class Processes:
    """Several processes of this machine.

    Args:
        classifier: arguments of `load_classifier`.
        workers: how many; None for one per core.
    """

    death = BrokenExecutor
    attempts = ATTEMPTS

    def __init__(self, classifier: Mapping[str, Any], workers: int | None = None) -> None:
        self.capacity = workers or os.cpu_count() or 1
        self.classifier = dict(classifier)
        self.restart()

    def submit(self, name: str, *arguments: Any) -> Future:
        # Ctrl-C is this process's to handle. A child inherits the mask, which also holds while it starts.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return self.pool.submit(_in_process, name, *arguments)
        except BrokenExecutor as error:  # a worker died since the last call
            future: Future = Future()
            future.set_exception(error)
            return future
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def restart(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch's threads may hang
        self.pool = ProcessPoolExecutor(self.capacity, context, _start_process, (self.classifier,))

    def close(self) -> None:
        for process in list((self.pool._processes or {}).values()):
            process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Ray:
    """Actors on a Ray cluster, or on this machine as one.

    A worker that dies is started again by Ray, and its shard computed again, `ATTEMPTS` times in all. Workers run the
    code of this process, which results are kept under, also where another version is installed on their machine.

    Args:
        classifier: arguments of `load_classifier`.
        workers: how many; None for one per GPU, or per core, of the cluster.
        address: of a running cluster ("auto", "ray://host:10001"); None starts one here.
        gpus: of each worker; a fraction shares one.

    Raises:
        InputError: Ray is not installed, the cluster not reached or too small.
    """

    attempts = 1  # Ray's own are behind them

    def __init__(
        self, classifier: Mapping[str, Any], workers: int | None = None, address: str | None = None, gpus: float = 0
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; nothing is sent home
        try:
            import ray
        except ModuleNotFoundError:
            raise InputError("the engine ray needs Ray: pip install 'perceptual-ball[ray]'.") from None
        self.ray = ray
        self.death = ray.exceptions.RayActorError
        self._connect(address, workers)
        room = self._room(gpus)
        self.capacity = workers or room
        if self.capacity > room or room == 0:
            self.close()
            raise InputError(
                f"the Ray cluster has no room for {workers or 1} workers with {f'{gpus:g} GPUs' if gpus else 'a core'} "
                f"each, only for {room}."
            )
        actor = ray.remote(Worker).options(
            num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=-1, max_task_retries=ATTEMPTS - 1
        )
        self.actors = [actor.remote(dict(classifier)) for _ in range(self.capacity)]
        self.idle: SimpleQueue = SimpleQueue()
        for each in self.actors:
            self.idle.put(each)

    def _connect(self, address: str | None, workers: int | None) -> None:
        here = {} if address else {"num_cpus": max(workers or 0, os.cpu_count() or 1), "include_dashboard": False}
        settings = {"runtime_env": {"py_modules": [str(Path(__file__).parents[1])]}, "log_to_driver": False}
        try:
            self.ray.init(address, logging_level="CRITICAL", **settings, **here)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "here"
            raise InputError(f"Ray cannot be started or reached {where}: {' '.join(str(error).split())}") from error

    def _room(self, gpus: float) -> int:
        """How many workers the cluster can have."""
        resources = self.ray.cluster_resources()
        return int(resources.get("GPU", 0) / gpus if gpus else resources["CPU"])

    def submit(self, name: str, *arguments: Any) -> Future:
        actor, answer = self.idle.get(), Future()

        def land(reply: Future) -> None:
            self.idle.put(actor)
            error = reply.exception()
            if error is None:
                answer.set_result(reply.result())
            elif isinstance(error, self.ray.exceptions.RayTaskError):
                answer.set_exception(error.cause)  # what the worker raised, without Ray's story around it
            else:
                answer.set_exception(error)

        getattr(actor, name).remote(*arguments).future().add_done_callback(land)
        return answer

    def restart(self) -> None:
        """Ray has done it."""

    def close(self) -> None:
        self.ray.shutdown()


def make_executor(
    engine: str, classifier: Mapping[str, Any], workers: int | None = None, address: str | None = None, gpus: float = 0
) -> Executor:
    """The executor of an engine: "local", "processes" or "ray". Raises InputError for another, or what does not fit."""
    if engine == "ray":
        return Ray(classifier, workers, address, gpus)
    if address is not None or gpus:
        raise InputError("address and gpus are for the engine ray.")
    if engine == "processes":
        return Processes(classifier, workers)
    if engine != "local":
        raise InputError(f"there is no engine {engine!r}; there are local, processes and ray.")
    if workers not in (None, 1):
        raise InputError("the engine local has one worker: use processes or ray for more.")
    return Local(classifier)


def all_of_this_machine(classifier: Mapping[str, Any]) -> Executor:
    """A worker on each core, or this process where there is a GPU."""
    on_gpu = classifier["device"] != "cpu" and torch.cuda.is_available()
    return make_executor("local" if on_gpu else "processes", classifier)


def _start_process(classifier: Mapping[str, Any]) -> None:
    global _worker
    _keep_freed_memory()
    _worker = Worker(classifier)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Have glibc, where that is the allocator, keep freed memory for the next tensor.

    By default it gives every large piece back and the system clears it each time anew: a forward pass of eight images
    on one core takes 1.4 times as long.
    """
    with suppress(AttributeError, OSError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(M_MMAP_MAX, 0)  # nothing outside the heap, which is
        glibc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # not shrunk


def _give_memory_back() -> None:
    """Once a shard is done: what stays in use between pieces that are free would grow from shard to shard."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _end_with_parent() -> None:
    """A run that is killed cannot end its workers: they would compute, and wait for more, for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _in_process(name: str, *arguments: Any) -> Any:
    result = getattr(_worker, name)(*arguments)
    _give_memory_back()
    return result
