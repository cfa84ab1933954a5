"""Work that a pass of a frozen network can do without: batch norms, some padding, copies of activations.

In evaluation mode a batch norm multiplies by constants and adds constants, which the convolution before it can do with
its weights (Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", Sec. 3.2). On the CPU, batch norms take a fifth of a forward and backward pass of EfficientNet-Lite0, and
copies for in-place ReLU6 a twentieth. Another twentieth are copies that pad two sides more than the others, as
TensorFlow does before a depthwise convolution: with zeros added to its weight, the convolution gives the same answer
for equal padding on all sides. The network itself is left alone: its calls, which `activations.watch` sees, are
answered in another way. Rounding differs.
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

TOLERANCE = 1e-3  # largest difference of folded and plain logits, as a share of the largest logit


class PathChanged(Exception):
    """The network makes other calls than when its folds were found, as where their number grows with the batch, or it
    overwrites a value that a fold relies on."""


@dataclass(frozen=True)
class Fold:
    """How one call is answered: a convolution, the padding before it, or the batch norm behind it."""

    known: Hashable  # what identifies the call
    instead: dict[str, Any] | None = None  # replaces arguments of a convolution; None where the answer is the input
    takes: int | None = None  # place of the call whose changed answer must be the input of this one
    leaves: bool = False  # whether the answer is not the call's own, so that only the call meant for it may take it


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
    """Find what can be folded in a frozen network, in a forward pass of the first image (B, C, H, W), and try it on
    another. All passes are in full precision, also inside autocast."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return ()
    with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
        image = inputs[:1].detach().requires_grad_()
        with Finder(network) as finder:
            ask(network, image)
        folds: Folds = finder.folds()
        # A part that is not seen, such as TorchScript, may change the answer, also of other images alone: so the trial
        # is of the image's negative, if that takes the same path.
        negative = (image.amax() + image.amin() - image).detach().requires_grad_()
        for shown in (negative, image) if folds else ():
            with suppress(PathChanged):
                with fold(folds):
                    again = ask(network, shown)
                return folds if _is_near(again, ask(network, shown)) else ()
    return ()


def _is_near(folded: Tensor, plain: Tensor) -> bool:
    """Whether logits are the same but for rounding. What a mask fills in is equal, and says nothing of their size."""
    moved = folded.detach() != plain.detach()
    folded, plain = folded.detach()[moved], plain.detach()[moved]
    return not len(plain) or bool((folded - plain).abs().max() <= TOLERANCE * plain.abs().max())


class Call:
    """A call that can be answered in another way."""

    def __init__(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.func, self.given = func, {**dict(zip(NAMES[func], args, strict=False)), **kwargs}
        told_by = map(self.given.get, (*FUSED, "mode", "value"))
        self.known = func, tuple(self.given.get("pad", ())), *told_by  # as part of a set, a tensor equals only itself
        self.takers: list[Call | None] = []  # calls that take the output, and return values or write to it
        self.place = -1  # among all calls of the network

    def is_of(self, tensors: Collection[int]) -> bool:
        """Whether the tensors that identify it have these ids; one that is computed anew each time never has."""
        return all(each is None or id(each) in tensors for each in map(self.given.get, FUSED))


class Finder(TorchFunctionMode):
    """Context that finds, in one call of the network, convolutions whose output goes to a batch norm and nowhere else;
    and padding whose output goes only to a depthwise convolution, on the CPU, where this was measured.

    Nothing is folded if a call is made inside a function of autograd, or under hooks on saved tensors, such as those of
    activation checkpointing: these may repeat the call, unseen, in the backward pass.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.held = {*map(id, tensors_of(network))}
        self.calls: list[Call | None] = []
        self.makers: dict[int, Call] = {}  # by the ids of their outputs
        self.outputs: list[Tensor] = []  # kept, so that no other tensor gets the id of one
        self.answerable = True  # whether folded answers would agree with the backward pass

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in NAMES or func is F.hardtanh:
            self.answerable &= torch.is_grad_enabled() and not _is_saving_hooked()
        output = func(*args, **kwargs)
        call = Call(func, args, kwargs) if func in NAMES else None
        call = call if call and call.is_of(self.held) else None
        asked = getattr(func, "__name__", "") == "__get__"  # for an attribute, such as the shape
        taken = isinstance(output, Tensor) or (isinstance(output, (tuple, list)) and not asked)
        if taken or output is None or func is Tensor.register_hook:  # what returns None writes to what it takes
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
    """Folds of a convolution, and of the calls before and behind it whose work it takes over."""
    given, norm = call.given, call.takers[0] if len(call.takers) == 1 else None
    weight, bias, padding, found = given["weight"], given.get("bias"), {}, dict[Call | None, Fold]()
    if norm and norm.func is F.batch_norm and not norm.given["training"]:
        names = "running_mean", "running_var", "eps", "weight", "bias"
        fused = fuse_conv_bn_weights(weight, bias, *[norm.given[name] for name in names])
        weight, bias = (each.detach() for each in fused)
        found[norm] = Fold(norm.known, takes=call.place)
    if before and before.takers == [call] and _can_pad(given, before):
        left, right, top, bottom = before.given["pad"]
        more = right - left, left - right, bottom - top, top - bottom  # zeros where equal padding is larger
        weight = F.pad(weight, tuple(max(0, zeros) for zeros in more))
        padding = {"padding": (max(top, bottom), max(left, right))}
        found[before] = Fold(before.known, leaves=True)
    if found:
        instead = {"weight": weight, "bias": bias, **padding}
        found[call] = Fold(call.known, instead, before.place if before and before in found else None, norm in found)
    return found


def _can_pad(given: Mapping[str, Any], before: Call) -> bool:
    """Whether the call before a convolution is padding with zeros that the convolution can take over."""
    input, amounts = given["input"], before.given.get("pad", ())
    zeros = before.given.get("mode") == "constant" and not before.given["value"]
    plain = not any(tree_leaves(given.get("padding", 0))) and {*tree_leaves(given.get("dilation", 1))} == {1}
    depthwise = given.get("groups") == input.shape[1] > 1 and input.device.type == "cpu"
    return zeros and len(amounts) == 4 and min(amounts) >= 0 and plain and depthwise


def counts(func: Callable[..., Any]) -> bool:
    """Whether a call of this function is a step of a network's path: attributes of tensors and `ask`'s copy are not."""
    return getattr(func, "__name__", "") not in ("__get__", "clone")


def _is_saving_hooked() -> bool:
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("they are only asked for"):
            return False
    except RuntimeError:  # there are hooks
        return True


class fold(watch):
    """Context for one call of a network: convolutions do the work of batch norms behind them and padding before them.

    `folds` are those of `find_folds`; `visit` is as for `watch`. Raises PathChanged.
    """

    def __init__(self, folds: Folds, visit: Callable[[str, Tensor], Tensor | None] = lambda *_: None) -> None:
        super().__init__(visit)
        self.is_folded = bool(folds)
        self.folds = enumerate(folds)  # of the calls to come
        self.undone: dict[int | None, Tensor] = {}  # changed answers that nobody has taken yet, by place
        self.fixed: list[tuple[Tensor, int]] = []  # values that must not be overwritten, and their versions

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
    """`F.hardtanh` in place. Its gradient needs no copy of the input: the output, which must not be overwritten, shows
    where values were clipped. Keeping a mask instead would cost as much as the copy."""

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
