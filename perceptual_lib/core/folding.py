"""What need not be done in a pass of a frozen network: its batch norms, some of its padding, copies of activations.

In evaluation mode a batch norm multiplies and adds constants, which the weights of the convolution before it can do
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
Sec. 3.2). On the CPU that is a fifth of a forward and backward pass of EfficientNet-Lite0; copies for in-place ReLU6
are a twentieth. So are copies that pad two sides more than the others, as TensorFlow does before a depthwise
convolution: that answers the same with zeros in its weight, padded on all sides alike. The network itself is left
alone: its calls are answered otherwise, as `activations.watch` sees them, and rounding differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
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

TOLERANCE = 1e-3  # of the largest logit, between folded and plain


class PathChanged(Exception):
    """The network calls other functions than when its folds were found, as one may whose calls grow with the batch, or
    writes over what was counted on."""


@dataclass(frozen=True)
class Fold:
    """What answers one call of a convolution."""

    original: Tensor  # its weight, which the call is known by
    weight: Tensor  # what it is called with, and the bias
    bias: Tensor | None
    norm: bool = False  # whether these do the work of a batch norm behind it
    amounts: tuple[int, ...] | None = None  # of a call of padding before it, which is left out
    padding: tuple[int, int] | None = None  # in its place: above and below, left and right
    calls: int = 0  # of any function by the network, in all: another number is of another path


Folds = tuple[Fold, ...]
"""One for each call of a convolution, in order; none for a network that is called as it is."""


def find_folds(network: nn.Module, inputs: Tensor) -> Folds:
    """What of a frozen network can be folded: seen in a forward pass of the first image (B, C, H, W), tried in another,
    in full precision also inside autocast."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return ()
    with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
        image = inputs[:1].detach().requires_grad_()
        with Finder() as finder:
            answer = ask(network, image)
        folds = finder.folds()
        try:
            with fold(folds):
                again = ask(network, image) if folds else answer
        except PathChanged:
            return ()
    # A part that does not show itself, as a function of autograd, may make the answer another.
    return folds if (again - answer).detach().abs().max() <= TOLERANCE * answer.detach().abs().max() else ()


@dataclass(eq=False)
class Call:
    """A call that can be answered otherwise."""

    func: Callable[..., Any]
    given: dict[str, Any]
    output: Tensor  # kept, so that no other output gets its id
    takers: list["Call | None"] = field(default_factory=list)  # calls that take the output and return values


class Finder(TorchFunctionMode):
    """Context that sees which outputs of convolutions go to a batch norm and nowhere else, in one call of the network;
    and of padding, directly to a depthwise convolution on the CPU, where this was measured.

    Nothing is folded if a call is in the hands of a function of autograd, or of hooks on what is saved, as those of
    activation checkpointing: these may make it a second time, in the backward pass, unseen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, Call] = {}  # by the ids of their outputs
        self.answerable = True  # in a way that the backward pass agrees with
        self.count = 0  # of calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.count += counts(func)
        self.answerable &= func not in ANSWERS or (torch.is_grad_enabled() and not _is_saving_hooked())
        output, call = func(*args, **kwargs), None
        if func in NAMES:
            call = Call(func, dict(zip(NAMES[func], args, strict=False)) | kwargs, output)
        asked = getattr(func, "__name__", "") == "__get__"  # as for its shape
        if isinstance(output, (Tensor, tuple, list)) and not asked:
            for value in tree_leaves([args, kwargs]):
                if id(value) in self.calls:
                    self.calls[id(value)].takers.append(call)
        if call:
            self.calls[id(output)] = call
        return output

    def folds(self) -> Folds:
        calls = [None, *(call for call in self.calls.values() if call.func is not F.batch_norm)]
        folds = [_fold(call, before) for before, call in pairwise(calls) if call and call.func is torch.conv2d]
        folds = [replace(each, calls=self.count) for each in folds]
        return tuple(folds) if self.answerable and any(each.norm for each in folds) else ()


def _fold(call: Call, before: Call | None) -> Fold:
    """Of a convolution, and of the call of padding or of a convolution that was made before."""
    given, norm = call.given, call.takers[0] if len(call.takers) == 1 else None
    weight, bias = given["weight"], given.get("bias")
    if norm is not None and (norm.func is not F.batch_norm or norm.given["training"]):
        norm = None
    if norm is not None:
        names = "running_mean", "running_var", "eps", "weight", "bias"
        fused = fuse_conv_bn_weights(weight, bias, *[norm.given[name] for name in names])
        weight, bias = (each.detach() for each in fused)
    if before is None or before.takers != [call] or not _can_pad(given, before):
        return Fold(given["weight"], weight, bias, norm is not None)
    left, right, top, bottom = amounts = tuple(before.given["pad"])
    more = right - left, left - right, bottom - top, top - bottom  # zeros where more is padded than was asked for
    weight = F.pad(weight, tuple(max(0, zeros) for zeros in more))
    return Fold(given["weight"], weight, bias, norm is not None, amounts, (max(top, bottom), max(left, right)))


def _can_pad(given: Mapping[str, Any], before: Call) -> bool:
    input, pads = given["input"], before.func is F.pad and _is_of_zeros(**before.given)
    plain = not any(tree_leaves(given.get("padding", 0))) and {*tree_leaves(given.get("dilation", 1))} == {1}
    return pads and plain and given.get("groups") == input.shape[1] > 1 and input.device.type == "cpu"


def _is_of_zeros(input: Tensor, pad: Sequence[int], mode: str, value: float | None) -> bool:
    return mode == "constant" and not value and len(pad) == 4 and min(pad) >= 0


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
        self.folds = list(reversed(folds))  # of the calls to come, the next one last
        self.calls = folds[0].calls if folds else 0  # that are still to come
        self.is_folded = bool(folds)
        self.normalized: Tensor | None = None  # the output of a convolution on its way to its batch norm
        self.padded: Tensor | None = None  # what should have been padded, on its way to its convolution
        self.fixed: list[tuple[Tensor, int]] = []  # what nothing may be written over, and how often it had been written

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls -= counts(func)
        answer = ANSWERS.get(func) if self.is_folded else None
        return func(*args, **kwargs) if answer is None else answer(self, *args, **kwargs)

    def pad(self, input: Tensor, pad: Sequence[int], mode: str, value: float | None) -> Tensor:
        amounts = self.folds[-1].amounts if self.folds else None
        if amounts != tuple(pad) or not _is_of_zeros(input, pad, mode, value):
            return F.pad(input, pad, mode, value)
        if self.padded is not None:
            raise PathChanged
        self.padded = input
        return self._fix(input)

    def convolution(self, *args: Any, **kwargs: Any) -> Tensor:
        given = dict(zip(NAMES[torch.conv2d], args, strict=False)) | kwargs
        own = self.folds.pop() if self.folds else None
        if own is None or own.original is not given["weight"] or (own.norm and self.normalized is not None):
            raise PathChanged
        if (own.padding is not None) != (given["input"] is self.padded):
            raise PathChanged
        if own.padding is not None:
            given["padding"], self.padded = own.padding, None
        output = torch.conv2d(**given | {"weight": own.weight, "bias": own.bias})
        if own.norm:
            self.normalized = output
        return output

    def normalization(self, input: Tensor, *rest: Any, **more: Any) -> Tensor:
        if input is not self.normalized:
            return F.batch_norm(input, *rest, **more)
        self.normalized = None
        return input

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
        left = self.is_folded and self.calls != 0
        if kind is None and (written or left or self.normalized is not None or self.padded is not None):
            raise PathChanged


ANSWERS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    F.pad: fold.pad,
    torch.conv2d: fold.convolution,
    F.batch_norm: fold.normalization,
    F.hardtanh: fold.bounded,  # also of nn.ReLU6
}
"""What answers calls in a `fold`."""
NAMES: Mapping[Callable[..., Any], tuple[str, ...]] = {
    F.pad: ("input", "pad"),
    torch.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.batch_norm: ("input", "running_mean", "running_var"),
}
"""Of what is given by position: torch hands on the rest by name where a function is written in Python."""


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
