"""Passes of a frozen network that leave out what need not be done: its batch norms, and copies of activations.

In evaluation mode a batch norm multiplies and adds constants, which the weights of the convolution before it can do
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
Sec. 3.2). On the CPU that is a fifth of a forward and backward pass of EfficientNet-Lite0; copies for in-place ReLU6
are a tenth. So are copies that pad two sides more than the others, as TensorFlow does before a depthwise convolution:
that answers the same with zeros in its weight, padded on all sides alike. The network itself is left alone: its calls
are answered otherwise, as `activations.watch` sees them, and rounding differs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.activations import watch

TOLERANCE = 1e-3  # of the largest logit, between folded and plain


class PathChanged(Exception):
    """The network calls other convolutions than when its folds were found, or in another order."""


@dataclass(frozen=True)
class Padding:
    """A call of `F.pad` that is left out.

    Attributes:
        call: its number among all such calls of a forward pass.
        amounts: of zeros, on the left, right, top and bottom.
    """

    call: int
    amounts: tuple[int, int, int, int]

    @property
    def all_around(self) -> tuple[int, int]:
        """What the convolution behind it pads instead: above and below, left and right."""
        left, right, top, bottom = self.amounts
        return max(top, bottom), max(left, right)

    def widened(self, weight: Tensor) -> Tensor:
        """The convolution's weight with zeros where there is more padding than was asked for."""
        left, right, top, bottom = self.amounts
        more = right - left, left - right, bottom - top, top - bottom
        return F.pad(weight, tuple(max(0, zeros) for zeros in more))


@dataclass(frozen=True)
class Fold:
    """What answers one call of a convolution.

    Attributes:
        original: its weight, which the call is known by.
        weight, bias: what it is called with; None for a convolution left as it is.
        norm: whether these do the work of a batch norm behind it.
        padding: what is left out before it.
    """

    original: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    norm: bool = False
    padding: Padding | None = None


Folds = tuple[Fold, ...]
"""One for each call of a convolution in a forward pass, in order; none for a network that is called as it is."""


def find_folds(network: Callable[[Tensor], Tensor], inputs: Tensor, backward: bool = True) -> Folds:
    """What of a network can be folded, by two forward passes of one image, in full precision also inside autocast.

    Args:
        network: in evaluation mode; call it inside `frozen`.
        inputs: (B, C, H, W), the first of which is shown.
        backward: whether there will be backward passes, which some networks that could be folded forbid: see
            `FoldFinder`.
    """
    if isinstance(network, nn.Module) and not any(isinstance(each, nn.BatchNorm2d) for each in network.modules()):
        return ()
    with torch.set_grad_enabled(backward), torch.autocast(inputs.device.type, enabled=False):
        image = inputs[:1].detach().requires_grad_(backward)
        with FoldFinder() as finder:
            answer = network(image).detach()
        folds = finder.folds
        try:
            with fold(folds):
                again = network(image).detach()
        except PathChanged:
            return ()
    return folds if torch.allclose(again, answer, rtol=0, atol=TOLERANCE * float(answer.abs().max())) else ()


def with_folds(
    network: Callable[[Tensor], Tensor], inputs: Tensor, backward: bool = True
) -> Callable[[Tensor], Tensor]:
    """The network, answering with what of it can be folded, as `find_folds` finds it.

    Args:
        network: in evaluation mode; find and call it inside `frozen`.
        inputs: (B, C, H, W), of the kind that it will be called with.
        backward: see `find_folds`.
    """
    folds = find_folds(network, inputs, backward)

    def answer(images: Tensor) -> Tensor:
        try:
            with fold(folds):
                return network(images)
        except PathChanged:  # a network that looks at its data
            return network(images)

    return answer if folds else network


class fold(watch):
    """Context in which convolutions do the work of batch norms behind them and of padding before. Raises PathChanged.

    Args:
        folds: as `find_folds` gives them for the network that is called once; with none it is called as it is.
        see: as for `watch`.
    """

    def __init__(self, folds: Folds, see: Callable[[str, Tensor], Tensor | None] = lambda *_: None) -> None:
        super().__init__(see)
        self.folds = folds
        self.convolutions = 0
        self.paddings = {fold.padding.call: fold.padding for fold in folds if fold.padding is not None}
        self.padding_calls = 0
        # Between two calls: the output of a convolution on its way to its batch norm; what should have been padded on
        # its way to its convolution, and how often it had been written.
        self.normalized: Tensor | None = None
        self.padded: tuple[Tensor, int] | None = None

    def run(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        answer = ANSWERS.get(func) if self.folds else None
        return func(*args, **kwargs) if answer is None else answer(self, *args, **kwargs)

    def pad(self, input: Tensor, pad: Sequence[int], *rest, **more) -> Tensor:
        padding = self.paddings.get(self.padding_calls)
        self.padding_calls += 1
        if padding is None:
            return F.pad(input, pad, *rest, **more)
        if padding.amounts != tuple(pad) or self.padded is not None:
            raise PathChanged
        self.padded = input, _version(input)
        return input

    def convolution(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1
    ) -> Tensor:
        if self.convolutions == len(self.folds) or self.folds[self.convolutions].original is not weight:
            raise PathChanged
        fold = self.folds[self.convolutions]
        self.convolutions += 1
        if fold.padding is not None:
            if self.padded is None or input is not self.padded[0] or _version(input) != self.padded[1]:
                raise PathChanged
            padding, self.padded = fold.padding.all_around, None
        if fold.weight is not None:
            weight, bias = fold.weight, fold.bias
        output = torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        if fold.norm:
            if self.normalized is not None:
                raise PathChanged
            self.normalized = output
        return output

    def normalization(self, input: Tensor, *rest, **more) -> Tensor:
        if input is not self.normalized:
            return F.batch_norm(input, *rest, **more)
        self.normalized = None
        return input

    def bounded(self, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        if inplace and input.requires_grad and not input.is_leaf:
            return Bounded.apply(input, min_val, max_val)
        return F.hardtanh(input, min_val, max_val, inplace)

    def bounded_by_6(self, input: Tensor, inplace: bool = False) -> Tensor:
        return self.bounded(input, 0.0, 6.0, inplace)

    def __exit__(self, kind, *rest) -> None:
        super().__exit__(kind, *rest)
        if kind is None and not (self.normalized is None and self.padded is None):
            raise PathChanged


ARGUMENTS: Mapping[Callable, Sequence[str]] = {
    F.pad: ("input", "pad", "mode", "value"),
    torch.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
"""By position."""

ANSWERS: Mapping[Callable, Callable] = {
    F.pad: fold.pad,
    torch.conv2d: fold.convolution,
    F.batch_norm: fold.normalization,
    F.hardtanh: fold.bounded,
    F.relu6: fold.bounded_by_6,
}


class Bounded(Function):
    """`F.hardtanh` in place. Its gradient needs no copy of the input: the output tells where it was cut.

    Nothing may be written over the output, then. A mask in its place would cost as much as the copy.
    """

    @staticmethod
    def forward(context, value: Tensor, low: float, high: float) -> Tensor:
        value.clamp_(low, high)
        context.mark_dirty(value)
        context.save_for_backward(value)
        context.bounds = low, high
        return value

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = context.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, value, *context.bounds), None, None


@dataclass(frozen=True)
class Call:
    """What a network asked for.

    Attributes:
        function, arguments, output: the arguments by name (see `ARGUMENTS`).
        version: how often its input had been written by then, where that is known by name.
    """

    function: Callable
    arguments: Mapping[str, Any]
    output: Any
    version: int


class FoldFinder(TorchFunctionMode):
    """Context that sees which outputs of convolutions go to a batch norm and nowhere else; the network is called once.

    A convolution is folded where a batch norm and nothing else takes its output; padding is left out where a depthwise
    convolution and nothing else takes its output, on the CPU, where this was measured. Where gradients are recorded the
    network is not folded at all

    - if one of the calls that `folded` answers is in the hands of a function of autograd, or of hooks on what is saved,
      as those of activation checkpointing: these may make the call a second time, in the backward pass, unseen;
    - if something is written over the output of `Bounded`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []  # of convolutions and of padding; kept, so that no other output gets the id of one
        self.takers: dict[int, list[Call]] = {}  # id of an output of theirs -> the calls that take it
        self.recorded = torch.is_grad_enabled()
        self.answerable = True  # in a way that the backward pass agrees with
        self.bounded: list[tuple[Tensor, int]] = []  # outputs, and how often they had been written

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.recorded and func in ANSWERS and (not torch.is_grad_enabled() or _is_saving_hooked()):
            self.answerable = False
        output = func(*args, **kwargs)
        if self.recorded and func in (F.hardtanh, F.relu6):
            self.bounded.append((output, output._version))
        arguments = dict(zip(ARGUMENTS.get(func, ()), args, strict=False)) | kwargs
        call = Call(func, arguments, output, _version(arguments["input"]) if func in ARGUMENTS else 0)
        if isinstance(output, (Tensor, tuple, list)) and func.__name__ != "__get__":  # its shape may be asked for
            for value in _flat([*args, *kwargs.values()]):
                if id(value) in self.takers:
                    self.takers[id(value)].append(call)
        if func in (torch.conv2d, F.pad):
            self.calls.append(call)
            self.takers[id(output)] = []
        return output

    @property
    def folds(self) -> Folds:
        """What was seen. A part that does not show itself, as a function of autograd, may make the answer another."""
        if not self.answerable or any(output._version != version for output, version in self.bounded):
            return ()
        paddings = [call for call in self.calls if call.function is F.pad]
        left_out = {
            id(call.output): Padding(number, tuple(call.arguments["pad"]))
            for number, call in enumerate(paddings)
            if self._can_be_left_out(call)
        }
        found = tuple(self._fold(call, left_out) for call in self.calls if call.function is torch.conv2d)
        return found if any(fold.weight is not None for fold in found) else ()

    def _only_taker(self, call: Call, function: Callable) -> Mapping[str, Any] | None:
        """Arguments of the one call that takes an output, if it is of this function and takes it as its input."""
        takers = self.takers[id(call.output)]
        if len(takers) == 1 and takers[0].function is function and takers[0].arguments["input"] is call.output:
            return takers[0].arguments
        return None

    def _can_be_left_out(self, padding: Call) -> bool:
        taker = self._only_taker(padding, torch.conv2d)
        if taker is None or padding.output.device.type != "cpu":
            return False
        asked = padding.arguments
        kept = _version(asked["input"]) == padding.version  # the convolution will need it in the backward pass
        zeros = asked.get("mode", "constant") == "constant" and not asked.get("value")
        on_four_sides = len(asked["pad"]) == 4 and min(asked["pad"]) >= 0
        depthwise = taker.get("groups", 1) == padding.output.shape[1] > 1
        plain = _pair(taker.get("padding", 0)) == (0, 0) and _pair(taker.get("dilation", 1)) == (1, 1)
        return kept and zeros and on_four_sides and depthwise and plain

    def _fold(self, call: Call, paddings: Mapping[int, Padding]) -> Fold:
        """Args: a call of a convolution; paddings that are left out, by the id of what they would return."""
        original, bias = call.arguments["weight"], call.arguments.get("bias")
        padding = paddings.get(id(call.arguments["input"]))
        norm = _constants(self._only_taker(call, F.batch_norm))
        if padding is None and norm is None:
            return Fold(original)
        weight = original
        if norm is not None:
            weight, bias = (each.detach() for each in fuse_conv_bn_weights(weight, bias, **norm))
        if padding is not None:
            weight = padding.widened(weight)
        return Fold(original, weight.detach(), bias, norm is not None, padding)


def _is_saving_hooked() -> bool:
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("they are only asked for"):
            return False
    except RuntimeError:  # there are some
        return True


def _version(value: Tensor) -> int:
    """How often it was written; what `torch.inference_mode` makes does not count that."""
    return -1 if value.is_inference() else value._version


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _pair(value: int | str | Sequence[int]) -> tuple:
    return (value, value) if isinstance(value, (int, str)) else tuple(value) * (2 // len(value))


def _constants(norm: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`fuse_conv_bn_weights`' arguments, of those of `F.batch_norm`; None where it takes the batch's statistics."""
    if norm is None or norm.get("training") or norm["running_mean"] is None or norm["running_var"] is None:
        return None
    return {
        "bn_rm": norm["running_mean"],
        "bn_rv": norm["running_var"],
        "bn_eps": norm.get("eps", 1e-5),
        "bn_w": norm.get("weight"),
        "bn_b": norm.get("bias"),
    }
