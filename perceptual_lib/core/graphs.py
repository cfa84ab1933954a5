"""Functions of tensors as CUDA graphs: what a GPU is asked for again and again is recorded once, then launched at once.

A pass of a network is hundreds of small kernels. A GPU is done with one before the host has launched the next, and
waits, unless the batch is large; a graph of them takes a tenth of the time.
"""

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import chain
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perceptual_lib.core.precision import computing, switches

Function = Callable[..., tuple[Tensor, ...]]
ASKED = 3  # times for one function and one shape, before it is recorded
GRAPHS = 8  # that are kept for a network: each holds the memory of its activations


class Graph:
    """What a function does with tensors of these shapes, recorded on a GPU. It is called now, and never again.

    It must have been called before: libraries choose their kernels then. What it does is not done while it is recorded.
    Its inputs are copied to where the graph reads them. One that is the very tensor of the last call is there already.
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [each.detach().clone() for each in inputs]
        self.given: list[Callable[[], Tensor | None]] = [lambda: None] * len(inputs)  # weak references
        self.written = [0] * len(inputs)  # how often each had been
        self.device = inputs[0].device
        self.outputs = self.record(function)

    def record(self, function: Function) -> tuple[Tensor, ...]:
        """The outputs, into which `replay` writes anew what the function makes of the inputs as they are then."""
        with torch.cuda.device(self.device):
            graph, self.done = torch.cuda.CUDAGraph(), torch.cuda.Event()
            # Other threads may go on; what they do is not recorded.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = function(*self.inputs)
            self.done.record()
        self.replay = graph.replay
        return outputs

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """On the device, behind the last call, which may have been on another stream."""
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(self.done)
            yield
            self.done.record()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with self.in_turn():
            for place, tensor in enumerate(inputs):
                if self.given[place]() is not tensor or self.written[place] != tensor._version:
                    self.inputs[place].copy_(tensor)
                    self.given[place], self.written[place] = weakref.ref(tensor), tensor._version
            self.replay()
            return tuple(each.clone() for each in self.outputs)  # the next call writes over them


class Recorder:
    """Calls functions of tensors. On a GPU those that are asked for again are recorded, and from then on replayed.

    A function that cannot be recorded (it looks at its values, or what it does depends on them) is called as it is.
    """

    make: Callable[..., Graph] = Graph

    def __init__(self, graphs: int = GRAPHS) -> None:
        self.most = graphs
        self.asked: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, Graph] = {}
        self.refused: set[Hashable] = set()
        self.lock = Lock()  # a graph has one place for its inputs

    def __call__(self, name: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `function(*inputs)` returns, a tuple of tensors.

        Nothing but the inputs, and what lives as long as the network, may be read by it: `name` says all that is fixed.
        """
        if not self.records(inputs[0].device):
            return function(*inputs)
        key = name, mode_of(inputs[0].device.type), tuple((each.shape, each.dtype, each.device) for each in inputs)
        with self.lock:
            if key not in self.graphs and not self._record(key, function, inputs):
                return function(*inputs)
            return self.graphs[key](*inputs)

    def records(self, device: torch.device) -> bool:
        """Whether functions are recorded there."""
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def _record(self, key: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> bool:
        self.asked[key] += 1
        if self.asked[key] < ASKED or key in self.refused:
            return False
        try:
            self.graphs[key] = self.make(function, inputs)
        except torch.cuda.OutOfMemoryError:
            self.clear()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"not recorded as a CUDA graph, and slower for it: {reason}", stacklevel=4)
        else:
            while len(self.graphs) > self.most:
                del self.graphs[next(iter(self.graphs))]  # the oldest
            return True
        self.refused.add(key)
        return False

    def clear(self) -> None:
        """Let go of all graphs and their memory."""
        self.graphs.clear()


class Kept:
    """What was found out about a network on a GPU, kept from call to call as long as it lives and is what it was."""

    networks: ClassVar["weakref.WeakKeyDictionary[nn.Module, Kept]"] = weakref.WeakKeyDictionary()

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.state = state_of(network)
        self.probe = images[:1].clone()
        self.answer = self._ask(network)
        self.recorder = Recorder()
        self.folds: dict[bool, Any] = {}
        self.activations: dict[tuple[int, ...], Any] = {}  # by the shape of an image

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> "Kept":
        """Of this network, which gets images like these; new where it has changed."""
        kept = cls.networks.get(network)
        if kept is None or kept.state != state_of(network) or not kept._answers(network):
            kept = cls.networks[network] = cls(network, images)
        return kept

    def _answers(self, network: nn.Module) -> bool:
        """Whether the network still says the same: not every change can be seen from outside."""
        answer = self._ask(network)
        return answer.shape == self.answer.shape and torch.allclose(answer, self.answer, rtol=1e-4, atol=1e-5)

    def _ask(self, network: nn.Module) -> Tensor:
        with computing("full", self.probe.device), torch.autocast(self.probe.device.type, enabled=False):
            answer: Tensor = network(self.probe)
        return answer


_spare: dict[Hashable, Any] = {}
SPARE = 2  # things that are kept for the next who needs one of their kind


def take_spare(kind: Hashable) -> Any:
    """What was given back of this kind, None where there is none: a graph reads and writes where it was recorded."""
    return _spare.pop(kind, None)


def give_spare(kind: Hashable, thing: Any) -> None:
    """Keep it for the next who needs one of its kind; the oldest gives way."""
    _spare[kind] = thing
    while len(_spare) > SPARE:
        del _spare[next(iter(_spare))]


def release() -> None:
    """Let go of the memory of all graphs, and of what they work on."""
    _spare.clear()
    for kept in Kept.networks.values():
        kept.recorder.clear()


def mode_of(device: str) -> Hashable:
    """What of torch's switches decides how a function is computed there."""
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return autocast, torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), switches()


def state_of(network: nn.Module) -> Hashable:
    """Tells whether a network is the same as before: its modules and their hooks, where its tensors are, and how often
    each was written."""
    modules = tuple(
        (id(module), type(module), *map(tuple, (module._forward_hooks, module._forward_pre_hooks)))
        for module in network.modules()
    )
    tensors = chain(network.parameters(), network.buffers())
    return modules, tuple((each.data_ptr(), each._version) for each in tensors)
