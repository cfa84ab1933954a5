"""What need not be done in a pass of a frozen network: its batch norms, some of its padding, copies of activations.

In evaluation mode a batch norm multiplies and adds constants, which the weights of the convolution before it can do
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
Sec. 3.2). On the CPU that is a fifth of a forward and backward pass of EfficientNet-Lite0; copies for in-place ReLU6
are a tenth. So are copies that pad two sides more than the others, as TensorFlow does before a depthwise convolution:
that answers the same with zeros in its weight, padded on all sides alike. The network itself is left alone: its calls
are answered otherwise, as `activations.watch` sees them, and rounding differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from perceptual_lib.core.activations import watch

Amounts = tuple[int, ...]  # of padding: on the left, right, top and bottom


class PathChanged(Exception):
    """The network calls other convolutions than when its folds were found, or in another order."""


@dataclass(frozen=True)
class Fold:
    """What answers one call of a convolution."""

    original: Tensor  # its weight, which the call is known by
    weight: Tensor | None = None  # what it is called with, and the bias; None for one left as it is
    bias: Tensor | None = None
    norm: bool = False  # whether these do the work of a batch norm behind it
    padding: tuple[int, int] | None = None  # above and below, left and right, in place of a call of padding before it


@dataclass(frozen=True)
class Folds:
    """What answers the calls of a network; nothing for one that is called as it is."""

    convolutions: tuple[Fold, ...] = ()  # one for each call in a forward pass, in order
    paddings: Mapping[int, Amounts] = field(default_factory=dict)  # calls of `F.pad` left out, by their number

    def __bool__(self) -> bool:
        return bool(self.convolutions)


NOTHING = Folds()


class fold(watch):
    """Context in which convolutions do the work of batch norms behind them and of padding before. Raises PathChanged.

    The network is called once; `folds` as `find_folds` gives them, `see` as for `watch`.
    """

    def __init__(self, folds: Folds, see: Callable[[str, Tensor], Tensor | None] = lambda *_: None) -> None:
        super().__init__(see)
        self.folds = folds
        self.convolutions = self.padding_calls = 0
        # Between two calls: the output of a convolution on its way to its batch norm; what should have been padded on
        # its way to its convolution, and how often it had been written.
        self.normalized: Tensor | None = None
        self.padded: tuple[Tensor, int] | None = None

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = ANSWERS.get(func) if self.folds else None
        return func(*args, **kwargs) if answer is None else getattr(self, answer)(*args, **kwargs)

    def pad(self, input: Tensor, pad: Sequence[int], *rest: Any, **more: Any) -> Tensor:
        amounts = self.folds.paddings.get(self.padding_calls)
        self.padding_calls += 1
        if amounts is None:
            return F.pad(input, pad, *rest, **more)
        if amounts != tuple(pad) or self.padded is not None:
            raise PathChanged
        self.padded = input, version_of(input)
        return input

    def convolution(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *rest: Any
    ) -> Tensor:
        own = next(iter(self.folds.convolutions[self.convolutions :]), None)
        if own is None or own.original is not weight:
            raise PathChanged
        self.convolutions += 1
        if own.padding is not None:
            if self.padded is None or input is not self.padded[0] or version_of(input) != self.padded[1]:
                raise PathChanged
            padding, self.padded = own.padding, None
        if own.weight is not None:
            weight, bias = own.weight, own.bias
        output = torch.conv2d(input, weight, bias, stride, padding, *rest)
        if own.norm:
            if self.normalized is not None:
                raise PathChanged
            self.normalized = output
        return output

    def normalization(self, input: Tensor, *rest: Any, **more: Any) -> Tensor:
        if input is not self.normalized:
            return F.batch_norm(input, *rest, **more)
        self.normalized = None
        return input

    def bounded(self, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        if inplace and input.requires_grad and not input.is_leaf:
            result: Tensor = Bounded.apply(input, min_val, max_val)
            return result
        return F.hardtanh(input, min_val, max_val, inplace)

    def bounded_by_6(self, input: Tensor, inplace: bool = False) -> Tensor:
        return self.bounded(input, 0.0, 6.0, inplace)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        super().__exit__(kind, *rest)  # type: ignore[no-untyped-call]
        if kind is None and not (self.normalized is None and self.padded is None):
            raise PathChanged


ANSWERS: Mapping[Callable[..., Any], str] = {
    F.pad: "pad",
    torch.conv2d: "convolution",
    F.batch_norm: "normalization",
    F.hardtanh: "bounded",
    F.relu6: "bounded_by_6",
}
"""The methods of `fold` and `Finder` by the calls that they answer."""


class Bounded(Function):
    """`F.hardtanh` in place. Its gradient needs no copy of the input: the output tells where it was cut.

    Nothing may be written over the output, then. A mask in its place would cost as much as the copy.
    """

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


def version_of(value: Tensor) -> int:
    """How often it was written; what `torch.inference_mode` makes does not count that."""
    return -1 if value.is_inference() else value._version
