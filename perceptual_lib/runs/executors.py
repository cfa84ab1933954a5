"""Where shards are computed: in this process, in several, or in the actors of a Ray cluster.

In each of them a shard is the same images in the same order on one thread, so its numbers are the same bits on one
kind of device. What a run needs of an executor::

    submit(name, *arguments)  a future of what a worker's method returns; BrokenExecutor if the worker was killed
    capacity                  how many calls run at once
    close()                   ends all workers immediately
"""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs.processes import Pool, Processes, room, usable_cores
from perceptual_lib.runs.worker import Worker


class Local:
    """This process; `classifier` are arguments of `load_classifier`."""

    capacity = 1

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        self.worker = Worker(classifier)

    def submit(self, name: str, *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(getattr(self.worker, name)(*arguments))
        return future

    def close(self) -> None:
        """There is nothing to be ended."""


class Ray(Pool):
    """Actors on a Ray cluster, or on one started here. Raises InputError if there is no Ray, no cluster or no room.

    Workers run the code of this process, from which the keys of results are made, whatever their machine has installed.

    Args:
        classifier: as for `Local`.
        workers: how many; None for one per GPU, or per core, of the cluster.
        address: of a running cluster ("auto", "ray://host:10001"); None starts one here.
        gpus: how many each worker gets; with a fraction, workers share one.
    """

    def __init__(
        self, classifier: Mapping[str, Any], workers: int | None = None, address: str | None = None, gpus: float = 0
    ) -> None:
        self.ray = ray = _connect(address, workers)
        resources = ray.cluster_resources()
        room = int(resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 0))
        if (workers or 1) > room:
            ray.shutdown()
            raise InputError(
                f"the Ray cluster has no room for {workers or 1} workers with {f'{gpus:g} GPUs' if gpus else 'a core'} "
                f"each, only for {room}."
            )
        actor = ray.remote(Worker).options(num_cpus=0 if gpus else 1, num_gpus=gpus)
        super().__init__(workers or room, lambda _: _Actor(ray, actor.remote(dict(classifier))))

    def close(self) -> None:
        super().close()
        self.ray.shutdown()


def _connect(address: str | None, workers: int | None) -> Any:
    """Ray, connected to the cluster at the address, or to one that it starts on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; nothing is sent home
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("the engine ray needs Ray: pip install 'perceptual-ball[ray]'.") from None
    before = signal.getsignal(signal.SIGTERM)
    here = {} if address else {"num_cpus": max(workers or 0, usable_cores()), "include_dashboard": False}
    code = {"py_modules": [str(Path(__file__).parents[1])]}
    try:
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level="CRITICAL", **here)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "here"
        raise InputError(f"Ray cannot be started or reached {where}: {' '.join(str(error).split())}") from error
    with suppress(ValueError):  # outside the main thread, where Ray could not set its handler either
        signal.signal(signal.SIGTERM, before)
    return ray


class _Actor:
    """A worker somewhere on the cluster."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor

    def ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return self.ray.get(getattr(self.actor, name).remote(*arguments))
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None  # what the worker raised, without Ray's wrapper around it
        except self.ray.exceptions.RayActorError:
            raise BrokenExecutor from None

    def end(self) -> None:
        self.ray.kill(self.actor)


Executor = Local | Processes | Ray


def make_executor(
    engine: str, classifier: Mapping[str, Any], workers: int | None = None, address: str | None = None, gpus: float = 0
) -> Executor:
    """The executor of an engine: "local", "processes" or "ray". Raises InputError for another, or unfit options."""
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
    """An executor of as many workers as this machine has room for; if that is one, this process."""
    return make_executor("local" if room(classifier) == 1 else "processes", classifier)
