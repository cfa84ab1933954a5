"""Shards: pure functions of pictures and settings, computed here, on several processes or on a Ray cluster.

    shards ──> key: finished? ──> claim ──> worker (a loaded network) ──> file ──> arrays

The run reads the pictures and writes the files; workers only compute. Whatever the engine, a shard is the same
images in the same order on one thread, so its numbers are the same bits on one kind of device.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import multiprocessing
import os
import platform
import signal
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from perceptual_lib.activations import Activation
from perceptual_lib.errors import InputError
from perceptual_lib.images import Photograph
from perceptual_lib.results import Arrays, Claim, Store

ATTEMPTS = 3  # of a shard whose worker dies
POLL = 1.0  # seconds between looks at what another run is computing
NUMERICS = ("torch", "torchvision", "timm", "numpy", "scipy")  # packages whose version can change a number
ALWAYS = ("failure", "seconds")  # arrays with a row for every image, whether it failed or not


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work.

    Attributes:
        kind: module whose `compute(classifier, pictures, **arguments)` does it.
        arguments: JSON values, keyword arguments of `compute`.
        photographs: the images.
        looks: whether `compute` looks at the pictures; else it gets "" for each.
        needs: the shard of the same images whose arrays `compute` gets as `needed`.
        label: what progress and status call it.
        passes: of the network for one image, forward and backward.
    """

    kind: str
    arguments: Mapping[str, Any]
    photographs: tuple[Photograph, ...]
    looks: bool = True
    needs: "Shard | None" = None
    label: str = ""
    passes: tuple[int, int] = (0, 0)

    @property
    def cost(self) -> float:
        """In forward passes. A backward pass takes about two, and so does what is not the network's: scoring."""
        forward, backward = self.passes
        return len(self.photographs) * (forward + 2 * backward + 2)

    def key(self, network: Mapping[str, Any]) -> str:
        """Hash of everything that determines the result; `network` is `Worker.identity`."""
        return self._key(network, {name: digest(name) for name in self.photographs})

    def _key(self, network: Mapping[str, Any], digests: Mapping[Photograph, str]) -> str:
        modules = [f"perceptual_lib.shards.{self.kind}"]
        if "method" in self.arguments:
            from perceptual_lib.explainers import find_method

            modules.append(find_method(self.arguments["method"]).function.__module__)
        parts = {
            "kind": self.kind,
            "arguments": self.arguments,
            # One without boxes is opened upright, one with boxes as it is stored.
            "photographs": [
                (each.name, digests[each], *([] if each.boxes else ["upright"])) for each in self.photographs
            ],
            "network": network,
            "needs": self.needs and self.needs._key(network, digests),
            "code": code_digest(*modules),
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> Mapping[str, str]:
    """Of Python and the packages whose version can change a number."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in NUMERICS}}


def digest(photograph: Photograph) -> str:
    """SHA-256 of the file; "unreadable" where there is none, so that its failure has a key of its own."""
    try:
        state = os.stat(photograph.path)
        return _digest(photograph.path, state.st_size, state.st_mtime_ns)
    except OSError:
        return "unreadable"


@cache
def _digest(path: Path, size: int, time_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_digest(*modules: str) -> str:
    """Hash of what these modules, and those of this package that they import, do: comments and docstrings left out.

    A notebook is a module without a file: the explanation methods that are defined in it stand for it, but not what
    they call.

    Raises:
        InputError: a method without a source, such as one made by `exec`.
    """
    typed = [_typed_methods(name) for name in modules if _file(name) is None]
    filed = _code_digest(*(name for name in modules if _file(name) is not None))
    return hashlib.sha256(repr((filed, typed)).encode()).hexdigest() if typed else filed


def _file(module: str) -> Path | None:
    if module == "__main__":  # a script has a file but no specification
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec is not None and spec.has_location else None
    return origin and Path(origin)


def _typed_methods(module: str) -> list[str]:
    from perceptual_lib.explainers import METHODS

    functions = [method.function for method in METHODS.values() if method.function.__module__ == module]
    try:
        trees = [ast.parse(textwrap.dedent(inspect.getsource(function))) for function in functions]
    except OSError:
        raise InputError(f"a method of {module} has no source to tell its versions by; define it in a file.") from None
    return [ast.dump(_without_docstrings(tree)) for tree in trees]


@cache
def _code_digest(*modules: str) -> str:
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in sources or path is None:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        waiting += _own_imports(tree)
        sources[name] = ast.dump(_without_docstrings(tree))
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _own_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == __package__:
            yield node.module
            for alias in node.names:  # `from package import module`
                if importlib.util.find_spec(node.module).submodule_search_locations is not None:
                    yield from filter(_is_module, [f"{node.module}.{alias.name}"])


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


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
        self.idle: SimpleQueue = SimpleQueue()
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


@dataclass(frozen=True)
class _Flight:
    """A shard that is being computed."""

    shard: Shard
    call: tuple[Any, ...]  # arguments of `Worker.compute`
    claim: Claim
    release: ExitStack


class Run:
    """Shards on their way through an executor into a store.

    Args:
        store: where finished shards are.
        executor: what computes the others.
        report: called as `report(shard, state)` with "started", "finished" by this run, "found" finished.
    """

    def __init__(self, store: Store, executor: Executor, report: Callable[[Shard, str], None] = lambda *_: None):
        self.store = store
        self.executor = executor
        self.report = report
        self.network = self.ask("identity")
        self.verified: set[str] = set()  # keys of files that this run has read

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a worker's method returns. Raises InputError where the worker dies of it."""
        try:
            return self.executor.submit(name, *arguments).result()
        except self.executor.death:
            raise InputError(f"a worker died while it was asked for its {name}; it may need more memory.") from None

    def key(self, shard: Shard) -> str:
        """The shard's key on this run's network, with its photographs as they are now."""
        return shard.key(self.network)

    def load(self, shard: Shard) -> Arrays | None:
        """A finished shard's arrays; None for one that is not."""
        key = self.key(shard)
        arrays = self.store.load(key)
        (self.verified.discard if arrays is None else self.verified.add)(key)
        return arrays

    def is_finished(self, shard: Shard) -> bool:
        """Whether its file is there and whole; read once in a run."""
        return self.key(shard) in self.verified or self.load(shard) is not None

    def unfinished(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those of the shards that are not finished, behind those that they need and are not finished either."""
        missing = [shard for shard in shards if not self.is_finished(shard)]
        needed = list(dict.fromkeys(shard.needs for shard in missing if shard.needs is not None))
        return (self.unfinished(needed) if needed else []) + missing

    def complete(self, shards: Sequence[Shard]) -> None:
        """Compute what is not finished, and what that needs.

        Raises:
            InputError: a worker died again and again, or the store cannot be written. What is finished stays.
        """
        while unfinished := self.unfinished(shards):  # again: photographs may have changed meanwhile
            with ExitStack() as claims:  # whatever happens, none is left behind
                self._complete(deque(filter(self._can_start, unfinished)), claims)

    def _can_start(self, shard: Shard) -> bool:
        return shard.needs is None or self.is_finished(shard.needs)

    def _complete(self, waiting: deque[Shard], claims: ExitStack) -> None:
        flying: dict[Future, _Flight] = {}
        deaths = 0
        while waiting or flying:
            self._fill(flying, waiting, claims)
            if not flying:  # what is left is being computed by another run
                time.sleep(POLL if waiting else 0)
                continue
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            try:
                for future in done:
                    self._land(flying[future], future.result())
                    del flying[future]
                    deaths = 0
            except self.executor.death:
                deaths += 1
                if deaths == self.executor.attempts:
                    labels = ", ".join(flight.shard.label for flight in flying.values())
                    raise InputError(
                        f"workers died {ATTEMPTS} times in a row, computing {labels}; they may need more memory: use "
                        "fewer workers, or smaller batches in the profile."
                    ) from None
                self.executor.restart()
                flying = {self._submit(flight): flight for flight in flying.values()}

    def _fill(self, flying: dict[Future, _Flight], waiting: deque[Shard], claims: ExitStack) -> None:
        """Start waiting shards until no worker is idle. One that another run is computing goes to the end."""
        for _ in range(len(waiting)):
            if len(flying) == self.executor.capacity:
                return
            shard = waiting.popleft()
            if self.is_finished(shard):
                self.report(shard, "found")
            elif (flight := self._take_off(shard, claims)) is not None:
                self.report(shard, "started")
                flying[self._submit(flight)] = flight
            elif self._can_start(shard):
                waiting.append(shard)

    def _take_off(self, shard: Shard, claims: ExitStack) -> _Flight | None:
        """Claim a shard and read what it takes; None where that is not to be had now, or changed meanwhile."""
        key, release = self.key(shard), claims.enter_context(ExitStack())
        claim = release.enter_context(self.store.claim(key))
        if claim is not None and not self.store.path(key).exists():
            pictures = _pictures(shard)
            needed = None if shard.needs is None else self.load(shard.needs)
            if self.key(shard) == key and (shard.needs is None or needed is not None):
                return _Flight(shard, (shard.kind, shard.arguments, pictures, needed), claim, release)
        release.close()
        return None

    def _submit(self, flight: _Flight) -> Future:
        return self.executor.submit("compute", *flight.call)

    def _land(self, flight: _Flight, arrays: Arrays) -> None:
        flight.claim.finish(arrays)
        flight.release.close()
        self.report(flight.shard, "finished")


def _pictures(shard: Shard) -> list[Image.Image | str]:
    """The shard's pictures, and in place of one that cannot be read the reason."""
    if not shard.looks:
        return [""] * len(shard.photographs)
    pictures: list[Image.Image | str] = []
    for photograph in shard.photographs:
        try:
            pictures.append(photograph.open())
        except InputError as error:
            pictures.append(str(error))
    return pictures
