"""What need not be done in a pass of a frozen network: its batch norms, some of its padding, copies of activations.

In evaluation mode a batch norm multiplies and adds constants, which the weights of the convolution before it can do
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
Sec. 3.2). On the CPU that is a fifth of a forward and backward pass of EfficientNet-Lite0; copies for in-place ReLU6
are a twentieth. So are copies that pad two sides more than the others, as TensorFlow does before a depthwise
convolution: that answers the same with zeros in its weight, padded on all sides alike. The network itself is left
alone: its calls are answered otherwise, as `activations.watch` sees them, and rounding differs.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from perceptual_lib.core.activations import watch
from perceptual_lib.core.calling import ask
from perceptual_lib.core.graphs import tensors_of

TOLERANCE = 1e-3  # of the largest logit, between folded and plain


class PathChanged(Exception):
    """The network calls other functions than when its folds were found, as one may whose calls grow with the batch, or
    writes over what was counted on."""


@dataclass(frozen=True)
class Fold:
    """What answers one call of a convolution, of padding before it, or of a batch norm behind it."""

    known: Hashable  # what the call is known by
    instead: dict[str, Any] | None = None  # of a convolution's arguments; None where the answer is the input
    takes: int | None = None  # the place of the call that has left something undone in the input
    leaves: bool = False  # whether in the answer something is left undone


Folds = tuple[Fold | None, ...]
"""For each call of the network, in order: another number, or other calls in these places, are of another path. None is
as it is. There are none for a network that is called as it is."""

NAMES: Mapping[Callable[..., Any], tuple[str, ...]] = {
    F.pad: ("input", "pad"),
    torch.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.batch_norm: ("input", "running_mean", "running_var"),
}
"""Of what is given by position: torch hands on the rest by name where a function is written in Python."""


FUSED = "weight", "bias", "running_mean", "running_var"


def find_folds(network: nn.Module, inputs: Tensor) -> Folds:
    """What of a frozen network can be folded: seen in a forward pass of the first image (B, C, H, W), tried in another,
    in full precision also inside autocast."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return ()
    with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
        image = inputs[:1].detach().requires_grad_()
        with Finder(network) as finder:
            answer = ask(network, image)
        folds: Folds = finder.folds()
        with suppress(PathChanged):
            with fold(folds):
                again = ask(network, image) if folds else answer
            # A part that does not show itself, as a function of autograd, may make the answer another.
            if (again - answer).detach().abs().max() <= TOLERANCE * answer.detach().abs().max():
                return folds
    return ()


class Call:
    """A call that can be answered otherwise."""

    def __init__(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.func, self.given = func, {**dict(zip(NAMES[func], args, strict=False)), **kwargs}
        told_by = map(self.given.get, (*FUSED, "mode", "value"))
        self.known = func, tuple(self.given.get("pad", ())), *told_by  # of a set's elements, a tensor is itself alone
        self.takers: list[Call | None] = []  # calls that take the output and return values
        self.place = -1  # among all calls of the network

    def is_of(self, tensors: Collection[int]) -> bool:
        """Whether it is known by tensors of these ids: by one that is computed anew each time, it never is again."""
        return all(each is None or id(each) in tensors for each in map(self.given.get, FUSED))


class Finder(TorchFunctionMode):
    """Context that sees which outputs of convolutions go to a batch norm and nowhere else, in one call of the network;
    and of padding, to a depthwise convolution on the CPU, where this was measured.

    Nothing is folded if a call is in the hands of a function of autograd, or of hooks on what is saved, as those of
    activation checkpointing: these may make it a second time, in the backward pass, unseen.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.held = {*map(id, tensors_of(network))}
        self.calls: list[Call | None] = []
        self.makers: dict[int, Call] = {}  # by the ids of their outputs,
        self.outputs: list[Tensor] = []  # which are kept, so that no other output gets the id of one
        self.answerable = True  # in a way that the backward pass agrees with

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in NAMES or func is F.hardtanh:
            self.answerable &= torch.is_grad_enabled() and not _is_saving_hooked()
        output = func(*args, **kwargs)
        call = Call(func, args, kwargs) if func in NAMES else None
        call = call if call and call.is_of(self.held) else None
        asked = getattr(func, "__name__", "") == "__get__"  # as for its shape
        if (isinstance(output, (Tensor, tuple, list)) and not asked) or func is Tensor.register_hook:
            for value in tree_leaves([args, kwargs]):
                if id(value) in self.makers:
                    self.makers[id(value)].takers.append(call)
        if call:
            self.makers[id(output)] = call
            self.outputs.append(output)
            call.place = len(self.calls)
        if counts(func):
            self.calls.append(call)
        return output

    def folds(self) -> Folds:
        found: dict[Call | None, Fold] = {}
        for call in self.calls:
            if call and call.func is torch.conv2d:
                found |= _folds(call, self.makers.get(id(call.given["input"])))
        is_worth_it = any(call and call.func is F.batch_norm for call in found)
        return (*map(found.get, self.calls),) if self.answerable and is_worth_it else ()


def _folds(call: Call, before: Call | None) -> dict[Call | None, Fold]:
    """Of a convolution, and of the calls before and behind it whose work it does."""
    given, norm = call.given, call.takers[0] if len(call.takers) == 1 else None
    weight, bias, padding, found = given["weight"], given.get("bias"), {}, dict[Call | None, Fold]()
    if norm and norm.func is F.batch_norm and not norm.given["training"]:
        names = "running_mean", "running_var", "eps", "weight", "bias"
        fused = fuse_conv_bn_weights(weight, bias, *[norm.given[name] for name in names])
        weight, bias = (each.detach() for each in fused)
        found[norm] = Fold(norm.known, takes=call.place)
    if before and before.takers == [call] and _can_pad(given, before):
        left, right, top, bottom = before.given["pad"]
        more = right - left, left - right, bottom - top, top - bottom  # zeros where more is padded than was asked for
        weight = F.pad(weight, tuple(max(0, zeros) for zeros in more))
        padding = {"padding": (max(top, bottom), max(left, right))}
        found[before] = Fold(before.known, leaves=True)
    if found:
        instead = {"weight": weight, "bias": bias, **padding}
        found[call] = Fold(call.known, instead, before.place if before and before in found else None, norm in found)
    return found


def _can_pad(given: Mapping[str, Any], before: Call) -> bool:
    """Whether a convolution can do the work of a call before it, which is padding with zeros."""
    input, amounts = given["input"], before.given.get("pad", ())
    zeros = before.given.get("mode") == "constant" and not before.given["value"]
    plain = not any(tree_leaves(given.get("padding", 0))) and {*tree_leaves(given.get("dilation", 1))} == {1}
    depthwise = given.get("groups") == input.shape[1] > 1 and input.device.type == "cpu"
    return zeros and len(amounts) == 4 and min(amounts) >= 0 and plain and depthwise


def counts(func: Callable[..., Any]) -> bool:
    """Whether a call of it tells of a network's path: questions about tensors do not, nor the copy that `ask` makes."""
    return getattr(func, "__name__", "") not in ("__get__", "clone")


def _is_saving_hooked() -> bool:
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("they are only asked for"):
            return False
    except RuntimeError:  # there are some
        return True


class fold(watch):
    """Context in which convolutions do the work of batch norms behind them and of padding before, for one call.

    `folds` as `find_folds` gives them, `see` as for `watch`. Raises PathChanged.
    """

    def __init__(self, folds: Folds, see: Callable[[str, Tensor], Tensor | None] = lambda *_: None) -> None:
        super().__init__(see)
        self.is_folded = bool(folds)
        self.folds = enumerate(folds)  # of the calls to come
        self.undone: dict[int | None, Tensor] = {}  # what calls have left to others, by their places
        self.fixed: list[tuple[Tensor, int]] = []  # what nothing may be written over, and how often it had been written

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.is_folded:
            return func(*args, **kwargs)
        place, own = next(self.folds, (-1, None)) if counts(func) else (0, None)
        if place < 0:
            raise PathChanged
        if own is None:
            return self.bounded(*args, **kwargs) if func is F.hardtanh else func(*args, **kwargs)
        call = Call(func, args, kwargs) if func in NAMES else None
        if not call or call.known not in {own.known}:
            raise PathChanged
        value = call.given["input"]
        if own.takes is not None and self.undone.pop(own.takes, None) is not value:
            raise PathChanged
        answer = value if own.instead is None else func(**call.given | own.instead)
        if own.leaves:
            self.undone[place] = answer
        return self._fix(answer) if func is F.pad else answer

    def bounded(self, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        if inplace and input.requires_grad and not input.is_leaf:
            return self._fix(Bounded.apply(input, min_val, max_val))
        return F.hardtanh(input, min_val, max_val, inplace)

    def _fix(self, value: Tensor) -> Tensor:
        if value.requires_grad:
            self.fixed.append((value, value._version))
        return value

    def __exit__(self, kind: Any, *rest: Any) -> None:
        super().__exit__(kind, *rest)  # type: ignore[no-untyped-call]
        written = any(value._version != version for value, version in self.fixed)
        if kind is None and (written or next(self.folds, None) or self.undone):
            raise PathChanged


class Bounded(Function):
    """`F.hardtanh` in place. Its gradient needs no copy of the input: the output, which nothing may be written over,
    tells where it was cut. A mask in its place would cost as much as the copy."""

    @staticmethod
    def forward(context: Any, value: Tensor, low: float, high: float) -> Tensor:
        value.clamp_(low, high)
        context.mark_dirty(value)
        context.save_for_backward(value)
        context.bounds = low, high
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = context.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, value, *context.bounds), None, None
