"""Where shards are computed: in this process, in several, or in the actors of a Ray cluster.

Whatever it is, a shard is the same images in the same order on one thread: its numbers are the same bits on one kind
of device. What a run needs of an executor::

    submit(name, *arguments)  a future of what a worker's method returns; new workers take the place of dead ones
    capacity                  calls at once
    death                     what the future ends with when the worker was killed
    attempts                  how often a run submits a call that ends so
    close()                   ends all workers at once
"""

import os
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs.processes import ATTEMPTS, Processes, room
from perceptual_lib.runs.worker import Worker


class Local:
    """This process; `classifier` are arguments of `load_classifier`."""

    capacity = 1
    death = ()  # of this process, nobody is told
    attempts = 1

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        self.worker = Worker(classifier)

    def submit(self, name: str, *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(getattr(self.worker, name)(*arguments))
        return future

    def close(self) -> None:
        """There is nothing to be ended."""


class Ray:
    """Actors on a Ray cluster, or on this machine as one. Raises InputError where there is no Ray, no cluster, no room.

    A worker that dies is started again by Ray, and its shard computed again, `ATTEMPTS` times in all. Workers run the
    code of this process, which results are kept under, also where another version is installed on their machine.

    Args:
        classifier: arguments of `load_classifier`.
        workers: how many; None for one per GPU, or per core, of the cluster.
        address: of a running cluster ("auto", "ray://host:10001"); None starts one here.
        gpus: of each worker; a fraction shares one.
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
        resources = ray.cluster_resources()
        room = int(resources.get("GPU", 0) / gpus if gpus else resources["CPU"])
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
        code = {"py_modules": [str(Path(__file__).parents[1])]}
        try:
            self.ray.init(address, runtime_env=code, log_to_driver=False, logging_level="CRITICAL", **here)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "here"
            raise InputError(f"Ray cannot be started or reached {where}: {' '.join(str(error).split())}") from error

    def submit(self, name: str, *arguments: Any) -> Future:
        actor, answer = self.idle.get(), Future()

        def land(reply: Future) -> None:
            self.idle.put(actor)
            try:
                answer.set_result(reply.result())
            except self.ray.exceptions.RayTaskError as error:
                answer.set_exception(error.cause)  # what the worker raised, without Ray's story around it
            except Exception as error:
                answer.set_exception(error)

        getattr(actor, name).remote(*arguments).future().add_done_callback(land)
        return answer

    def close(self) -> None:
        self.ray.shutdown()


Executor = Local | Processes | Ray


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
    """As many workers as it has room for; this process where that is one."""
    return make_executor("local" if room(classifier) == 1 else "processes", classifier)
