"""Functions of tensors as CUDA graphs: work that a GPU repeats is recorded once, then launched as a whole.

A pass of a network is hundreds of small kernels. Unless the batch is large, a GPU is done with one before the host has
launched the next, and waits; a graph of them takes a tenth of the time.
"""

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock, RLock
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perceptual_lib.core.errors import see, warn
from perceptual_lib.core.precision import switches

Function = Callable[..., tuple[Tensor, ...]]
ASKED = 3  # the call, of one function with the same shapes, at which it is recorded
BRANCHES = 4  # streams of work in parallel
GRAPHS = 32  # the most of one recorder, which share their memory

SPARE: dict[Hashable, Any] = {}
"""What serves again, by kind: a recorded function reads and writes in the memory of what it was recorded with."""


def records(device: torch.device) -> bool:
    """Whether functions are recorded on this device."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def stream_of(device: torch.device) -> tuple[Hashable, ...]:
    """The device's current stream, to which recorded graphs belong: work on one stream is done in order."""
    return device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def full_size(count: int, device: torch.device) -> int:
    """The size to which a batch of `count` is filled up: on a GPU, which plans anew for each size, a power of two."""
    return count if device.type == "cpu" else 1 << (count - 1).bit_length()


@cache
def _aside(stream: tuple[Hashable, ...]) -> torch.cuda.Stream:
    """A side stream, for recordings of this stream or for a branch; kept, as libraries have workspace for each."""
    return torch.cuda.Stream(stream[0])


class Branches:
    """Pieces of work that run in parallel with each other and with what follows, while a graph is being recorded;
    otherwise all is done in order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        recorded = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        self.stream = torch.cuda.current_stream(device) if recorded else None
        self.branches: list[torch.cuda.Stream] = []

    @contextmanager
    def beside(self, value: Tensor) -> Iterator[None]:
        """Context of such a piece of work. It reads `value`, which must not be overwritten before `join`, and writes
        tensors that live until then."""
        if self.stream is None:
            yield
            return
        self.branches.append(_aside((self.device, "branch", len(self.branches) % BRANCHES)))
        self.branches[-1].wait_stream(self.stream)
        value.record_stream(self.branches[-1])
        with torch.cuda.stream(self.branches[-1]):
            yield

    def join(self) -> None:
        """Let what follows wait for all pieces."""
        for each in self.branches[-BRANCHES:]:
            self.stream.wait_stream(each)  # type: ignore[union-attr]


class Graph:
    """What a function does with tensors of these shapes, recorded on a GPU; recording it computes nothing.

    The function must have been called before, since libraries choose their kernels then. Inputs are copied to where
    the graph reads them, except one that is the very tensor of the last call, unchanged.
    """

    recording: ClassVar[Lock] = Lock()  # torch records one graph at a time

    def __init__(self, function: Function, inputs: tuple[Tensor, ...], pools: dict[Hashable, Any]) -> None:
        self.inputs = [each.detach().clone() for each in inputs]
        self.given: list[Callable[[], Tensor | None]] = [lambda: None] * len(inputs)  # weak references
        self.written = [0] * len(inputs)  # their versions then
        with self.recording:
            self.outputs = self.record(function, stream_of(inputs[0].device), pools)

    def record(self, function: Function, stream: Hashable, pools: dict[Hashable, Any]) -> tuple[Tensor, ...]:
        """Record the function; each `replay` computes it from the current inputs, and writes into the returned outputs.

        Graphs of one stream run one after the other, so they share the memory of intermediate results.
        """
        graph = torch.cuda.CUDAGraph()
        self.replay = graph.replay
        pool = pools.setdefault(stream, torch.cuda.graph_pool_handle())
        own = torch.cuda.current_stream(self.inputs[0].device)
        try:
            # Other threads may go on, unrecorded. Torch leaves its stream current if recording fails, hence `own`.
            with (
                torch.cuda.stream(own),
                torch.cuda.graph(graph, pool, _aside(stream), capture_error_mode="thread_local"),
            ):
                return function(*self.inputs)
        except RuntimeError as error:
            _end_recording(_aside(stream), pool)
            cause = error.__context__
            if cause is None or isinstance(cause, Exception):
                raise
            raise cause from None  # Ctrl-C, or what a signal raised

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for place, tensor in enumerate(inputs):
            if self.given[place]() is not tensor or self.written[place] != tensor._version:
                self.inputs[place].copy_(tensor)
                self.given[place], self.written[place] = weakref.ref(tensor), tensor._version
        self.replay()
        return tuple(each.clone() for each in self.outputs)  # the next call writes over them


def _end_recording(stream: torch.cuda.Stream, pool: Any) -> None:
    """End a failed recording. Torch before 2.12 acts as if it still recorded: its allocator frees no memory
    (pytorch/pytorch#180395), until it is told, and its random generator refuses, until a recording succeeds."""
    with suppress(AttributeError, RuntimeError):  # torch has ended it already
        torch._C._cuda_endAllocateToPool(stream.device_index, pool)
    with suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the recording is empty
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
            pass


class Recorder:
    """Calls functions of tensors. On a GPU, functions that are called repeatedly are recorded, and then replayed, if
    `replays`."""

    make: Callable[..., Graph] = Graph
    alive: ClassVar["weakref.WeakSet[Recorder]"] = weakref.WeakSet()

    def __init__(self, replays: bool = True) -> None:
        self.alive.add(self)
        self.replays = replays
        self.asked: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, Graph] = {}
        self.pools: dict[Hashable, Any] = {}  # memory pools, by stream
        self.refused: set[Hashable] = set()
        self.lock = RLock()  # a graph has one place for its inputs

    def __call__(self, name: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `function(*inputs)` returns, a tuple of tensors.

        It may read only the inputs and what lives as long as this recorder; `name` must identify all that is fixed.
        """
        device = inputs[0].device
        if not (self.replays and records(device)):
            return function(*inputs)
        shapes = tuple((each.shape, each.dtype, each.device) for each in inputs)
        key = name, mode_of(device.type), stream_of(device), shapes
        with self.lock:
            if (graph := self.graphs.pop(key, None) or self._recorded(key, function, inputs)) is not None:
                self.graphs[key] = graph  # behind those that were used less recently
                while len(self.graphs) > GRAPHS:
                    del self.graphs[next(iter(self.graphs))]
                return graph(*inputs)
        return function(*inputs)

    def _recorded(self, key: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> Graph | None:
        self.asked[key] += 1
        if self.asked[key] < ASKED or key in self.refused:
            return None
        try:
            return self.make(function, inputs, self.pools)
        except torch.cuda.OutOfMemoryError:
            self.clear()
        except RuntimeError as error:
            self.pools.pop(stream_of(inputs[0].device), None)
            reason = str(error).splitlines()[0]
            warn(f"not recorded as a CUDA graph, and slower for it: {reason}{see('Not recorded')}.")
        self.refused.add(key)
        return None

    def clear(self) -> bool:
        """Release all graphs and their memory; return whether there were any."""
        with self.lock:
            some = bool(self.graphs)
            self.graphs.clear()
            self.pools.clear()
            return some


def release() -> bool:
    """Free the GPU memory that is kept between calls, such as graphs; return whether there was any."""
    some = [bool(SPARE), *(recorder.clear() for recorder in list(Recorder.alive))]
    SPARE.clear()
    torch.cuda.empty_cache()
    return any(some)


def mode_of(device: str) -> Hashable:
    """The switches of torch that decide how a function is computed on such a device."""
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return autocast, torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), switches()


HOOKS = "_forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks".split()


def parts_of(network: nn.Module) -> list[object]:
    """What tells whether a network is built as before: its modules with their hooks."""
    modules = list(network.modules())
    return [(weakref.ref(each), type(each), *(tuple(getattr(each, name)) for name in HOOKS)) for each in modules]


def state_of(network: nn.Module) -> object:
    """What tells whether a network is the same as before: its parts; the addresses of its tensors, also of those in
    plain attributes; and how often each was written."""
    return parts_of(network), [(each.data_ptr(), each._version) for each in tensors_of(network)]


def tensors_of(network: nn.Module) -> list[Tensor]:
    """A network's weights and buffers, and the tensors in its plain attributes."""
    owners = [own for each in network.modules() for own in (vars(each), each._parameters, each._buffers)]
    return [value for own in owners for value in own.values() if isinstance(value, Tensor)]
