"""Passes of a frozen network that leave out what need not be done: its batch norms, and copies for in-place ReLU6.

In evaluation mode a batch norm multiplies and adds constants, which the weights of the convolution before it can do
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
Sec. 3.2). On the CPU that is a fifth of a forward and backward pass of EfficientNet-Lite0. The network itself is left
alone: its calls are answered otherwise, as `activations.watch` sees them, and rounding differs.
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

from perceptual_lib.activations import watch

TOLERANCE = 1e-3  # of the largest logit, between folded and plain


class PathChanged(Exception):
    """The network calls other convolutions than when its folds were found, or in another order."""


@dataclass(frozen=True)
class Fold:
    """What answers one call of a convolution.

    Attributes:
        original: its weight, which the call is known by.
        weight, bias: those of the convolution and the batch norm in one; None for a convolution left as it is.
    """

    original: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None


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
            with folded(folds):
                again = network(image).detach()
        except PathChanged:
            return ()
    return folds if torch.allclose(again, answer, rtol=0, atol=TOLERANCE * float(answer.abs().max())) else ()


def without_norms(
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
            with folded(folds):
                return network(images)
        except PathChanged:  # a network that looks at its data
            return network(images)

    return answer if folds else network


class folded(watch):
    """Context in which convolutions do the work of the batch norms behind them. Raises PathChanged.

    Args:
        folds: as `find_folds` gives them for the network that is called once; with none it is called as it is.
        see: as for `watch`.
    """

    def __init__(self, folds: Folds, see: Callable[[str, Tensor], Tensor | None] = lambda *_: None) -> None:
        super().__init__(see)
        self.folds = folds
        self.convolutions = 0
        self.normalised: Tensor | None = None  # the output of a folded convolution until its batch norm is called

    def run(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        answer = ANSWERS.get(func) if self.folds else None
        return func(*args, **kwargs) if answer is None else answer(self, *args, **kwargs)

    def convolution(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest, **more) -> Tensor:
        if self.convolutions == len(self.folds) or self.folds[self.convolutions].original is not weight:
            raise PathChanged
        fold = self.folds[self.convolutions]
        self.convolutions += 1
        if fold.weight is None:
            return torch.conv2d(input, weight, bias, *rest, **more)
        if self.normalised is not None:
            raise PathChanged
        self.normalised = torch.conv2d(input, fold.weight, fold.bias, *rest, **more)
        return self.normalised

    def normalisation(self, input: Tensor, *rest, **more) -> Tensor:
        if input is not self.normalised:
            return F.batch_norm(input, *rest, **more)
        self.normalised = None
        return input

    def bounded(self, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        if inplace and input.requires_grad and not input.is_leaf:
            return Bounded.apply(input, min_val, max_val)
        return F.hardtanh(input, min_val, max_val, inplace)

    def bounded_by_6(self, input: Tensor, inplace: bool = False) -> Tensor:
        return self.bounded(input, 0.0, 6.0, inplace)

    def __exit__(self, kind, *rest) -> None:
        super().__exit__(kind, *rest)
        if kind is None and self.normalised is not None:
            raise PathChanged


ANSWERS: Mapping[Callable, Callable] = {
    torch.conv2d: folded.convolution,
    F.batch_norm: folded.normalisation,
    F.hardtanh: folded.bounded,
    F.relu6: folded.bounded_by_6,
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


class FoldFinder(TorchFunctionMode):
    """Context that sees which outputs of convolutions go to a batch norm and nowhere else; the network is called once.

    A convolution is folded where a batch norm and nothing else takes its output. Where gradients are recorded the
    network is not folded at all

    - if one of the calls that `folded` answers is in the hands of a function of autograd, or of hooks on what is saved,
      as those of activation checkpointing: these may make the call a second time, in the backward pass, unseen;
    - if something is written over the output of `Bounded`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor | None]] = []  # weight and bias of each convolution
        self.outputs: list[Tensor] = []  # kept, so that no other tensor gets the identity of one
        self.places: dict[int, int] = {}  # identity of an output -> its convolution
        self.norms: dict[int, dict[str, Any]] = {}  # convolution -> what the batch norm behind it does
        self.elsewhere: set[int] = set()  # convolutions whose output something else takes
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
        taken = [self.places[id(value)] for value in _flat([*args, *kwargs.values()]) if id(value) in self.places]
        if taken and func is F.batch_norm and taken[0] not in self.norms:
            norm = _norm(*args, **kwargs)
            if norm is not None:
                self.norms[taken.pop()] = norm
        if isinstance(output, (Tensor, tuple, list)) and func.__name__ != "__get__":  # its shape may be asked for
            self.elsewhere.update(taken)
        if func is torch.conv2d:
            self.places[id(output)] = len(self.calls)
            self.calls.append(_weights(*args, **kwargs))
            self.outputs.append(output)
        return output

    @property
    def folds(self) -> Folds:
        """What was seen. A part that does not show itself, as a function of autograd, may make the answer another."""
        if not self.answerable or any(output._version != version for output, version in self.bounded):
            return ()
        found = tuple(self._fold(place, *call) for place, call in enumerate(self.calls))
        return found if any(fold.weight is not None for fold in found) else ()

    def _fold(self, place: int, weight: Tensor, bias: Tensor | None) -> Fold:
        if place not in self.norms or place in self.elsewhere:
            return Fold(weight)
        return Fold(weight, *(each.detach() for each in fuse_conv_bn_weights(weight, bias, **self.norms[place])))


def _is_saving_hooked() -> bool:
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("they are only asked for"):
            return False
    except RuntimeError:  # there are some
        return True


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _weights(_input: Tensor, weight: Tensor, bias: Tensor | None = None, *_, **__) -> tuple[Tensor, Tensor | None]:
    """Of a call of `torch.conv2d`."""
    return weight, bias


def _norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> dict[str, Any] | None:
    """`fuse_conv_bn_weights`' arguments of a call of `F.batch_norm`; None where that takes the batch's statistics."""
    if training or running_mean is None or running_var is None:
        return None
    return {"bn_rm": running_mean, "bn_rv": running_var, "bn_eps": eps, "bn_w": weight, "bn_b": bias}
