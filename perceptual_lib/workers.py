"""What computes shards: a loaded network in this process, in several, or in the actors of a Ray cluster.

Whatever it is, a shard is the same images in the same order on one thread: its numbers are the same bits on one kind
of device.
"""

import hashlib
import importlib
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from perceptual_lib.activations import Activation
from perceptual_lib.errors import InputError
from perceptual_lib.results import Arrays

ATTEMPTS = 3  # of a shard whose worker dies
ALWAYS = ("failure", "seconds")  # arrays with a row for every image, whether it failed or not


class Worker:
    """A process's network, kept loaded, and what is computed with it.

    Args:
        classifier: arguments of `load_classifier`.
    """

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        self.arguments = dict(classifier)

    @cached_property
    def classifier(self):
        from perceptual_lib.classifiers import load_classifier

        return load_classifier(**self.arguments)

    def identity(self) -> dict[str, Any]:
        """The network, its weights, its preprocessing and the kind of device, as JSON."""
        classifier = self.classifier
        hashed = hashlib.sha256()
        for name, tensor in classifier.network.state_dict().items():
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return {
            "name": classifier.name,
            "weights": hashed.hexdigest(),
            "input_size": list(classifier.input_size),
            "mean": classifier.mean.flatten().tolist(),
            "std": classifier.std.flatten().tolist(),
            "interpolation": classifier.interpolation.name,
            "device": classifier.device.type,
        }

    def machine(self) -> str:
        """What it computes on, for readers: "Linux x86_64, 2 cores", or the GPU's name."""
        if self.classifier.device.type == "cuda":
            return torch.cuda.get_device_name(self.classifier.device)
        return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"

    def activations(self) -> list[Activation]:
        """The network's, in forward order."""
        return list(self.classifier.activations)

    def pass_seconds(self, batch: int) -> tuple[float, float]:
        """Seconds of a forward pass and of what a backward pass adds, for one image in a batch; about two seconds."""
        from perceptual_lib.activations import frozen

        images = torch.zeros(batch, 3, *self.classifier.input_size, device=self.classifier.device)
        with _one_thread(), frozen(self.classifier):
            forward = _fastest(lambda: self._forward(images)) / batch
            both = _fastest(lambda: torch.autograd.grad(self._forward(images.requires_grad_()), images)) / batch
        return forward, max(0.0, both - forward)

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(images).sum()

    def compute(
        self, kind: str, arguments: Mapping[str, Any], pictures: Sequence[Image.Image | str], needed: Arrays | None
    ) -> Arrays:
        """One shard's arrays.

        Args:
            kind, arguments: of the shard.
            pictures: one per image, or in its place the reason why there is none.
            needed: the arrays of the shard that it needs.

        Returns:
            `failure` (n,): "" or why there is no result for the image. `seconds` (n,). All other arrays have one row
            for each image that did not fail.

        Raises:
            InputError: a network that cannot be loaded, or a method that is not known in this process.
        """
        if "method" in arguments:
            from perceptual_lib.explainers import find_method

            find_method(arguments["method"])  # here, where it is no failure of an image
        start = time.perf_counter()
        compute = importlib.import_module(f"perceptual_lib.shards.{kind}").compute
        failures = [picture if isinstance(picture, str) else "" for picture in pictures]
        if needed is not None:
            failures = [ours or theirs for ours, theirs in zip(failures, needed["failure"].tolist(), strict=True)]
        rows = [row for row, failure in enumerate(failures) if not failure]
        with _one_thread():
            parts = self._in_halves(compute, arguments, pictures, needed, rows, failures)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
        seconds = (time.perf_counter() - start) / max(1, len(pictures))
        return {"failure": np.array(failures, dtype=str), "seconds": np.full(len(pictures), seconds), **arrays}

    def _in_halves(self, compute, arguments, pictures, needed, rows: list[int], failures: list[str]) -> list[Arrays]:
        """Results of these rows: of all at once, or else in halves, down to the one image that fails."""
        if not rows:
            return []
        try:
            return [self._compute(compute, arguments, pictures, needed, rows)]
        except Exception as error:  # too little memory for all, or something wrong with one
            if len(rows) == 1:
                failures[rows[0]] = " ".join(f"{type(error).__name__}: {error}".split())
                return []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        return [
            part
            for half in (rows[:middle], rows[middle:])
            for part in self._in_halves(compute, arguments, pictures, needed, half, failures)
        ]

    def _compute(self, compute, arguments, pictures, needed, rows: list[int]) -> Arrays:
        given = {}
        if needed is not None:
            present = np.flatnonzero(needed["failure"] == "").tolist()
            place = [present.index(row) for row in rows]
            given["needed"] = {name: value[place] for name, value in needed.items() if name not in ALWAYS}
        by_image = {name: [value[row] for row in rows] for name, value in arguments.get("by_image", {}).items()}
        shared = {name: value for name, value in arguments.items() if name != "by_image"}
        return compute(self.classifier, [pictures[row] for row in rows], **given, **shared, **by_image)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last bits from those of one: with one, numbers do not depend on cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fastest(work: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]) -> float:
    """Seconds of the fastest of five runs, and until its result is there."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        result = work()
        (result[0] if isinstance(result, tuple) else result).flatten()[0].item()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


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
        settings = {"runtime_env": {"py_modules": [str(Path(__file__).parent)]}, "log_to_driver": False}
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


def _start_process(classifier: Mapping[str, Any]) -> None:
    global _worker
    _worker = Worker(classifier)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed cannot end its workers: they would compute, and wait for more, for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _in_process(name: str, *arguments: Any) -> Any:
    return getattr(_worker, name)(*arguments)
