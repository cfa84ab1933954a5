"""What of a network can be folded: found by watching one pass, and checked by a second one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from perceptual_lib.core.calling import ask
from perceptual_lib.core.folding import ANSWERS, NOTHING, Amounts, Fold, Folds, PathChanged, fold, version_of

TOLERANCE = 1e-3  # of the largest logit, between folded and plain


def find_folds(network: nn.Module, inputs: Tensor, backward: bool = True) -> Folds:
    """What of a frozen network can be folded, by two forward passes of the first image (B, C, H, W).

    In full precision also inside autocast. Backward passes forbid it to some networks, see `Finder`.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return NOTHING
    with torch.set_grad_enabled(backward), torch.autocast(inputs.device.type, enabled=False):
        image = inputs[:1].detach().requires_grad_(backward)
        with Finder(backward) as finder:
            answer = ask(network, image)
        folds = finder.folds()
        try:
            with fold(folds):
                distance = (ask(network, image) - answer).detach().abs().max() if folds else 0.0
        except PathChanged:
            return NOTHING
    return folds if folds and distance <= TOLERANCE * answer.detach().abs().max() else NOTHING


@dataclass(eq=False)
class Output:
    """What a convolution or a call of padding returned, kept so that no other output gets its id."""

    value: Tensor
    asked: tuple[Any, ...]  # what the call was made with: weight and bias, or input, version of the input and amounts
    number: int | None = None  # among the calls of padding; of a convolution, of the call whose work it can do
    takers: int = 0  # calls that take the value and return values
    norm: dict[str, Any] | None = None  # constants of the batch norm that takes it


class Finder(TorchFunctionMode):
    """Context that sees which outputs of convolutions go to a batch norm and nowhere else; the network is called once.

    A convolution is folded where a batch norm and nothing else takes its output; padding is left out where a depthwise
    convolution and nothing else takes its output, on the CPU, where this was measured. Where gradients are recorded the
    network is not folded at all

    - if one of the calls that `fold` answers is in the hands of a function of autograd, or of hooks on what is saved,
      as those of activation checkpointing: these may make the call a second time, in the backward pass, unseen;
    - if something is written over the output of `Bounded`.
    """

    def __init__(self, backward: bool) -> None:
        super().__init__()
        self.backward = backward
        self.answerable = True  # in a way that the backward pass agrees with
        self.paddings: list[Output] = []
        self.convolutions: list[Output] = []
        self.by_id: dict[int, Output] = {}
        self.bounds: list[tuple[Tensor, int]] = []  # outputs, and how often they had been written

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.backward and func in ANSWERS and (not torch.is_grad_enabled() or _is_saving_hooked()):
            self.answerable = False
        output = getattr(self, ANSWERS[func])(*args, **kwargs) if func in ANSWERS else func(*args, **kwargs)
        if isinstance(output, (Tensor, tuple, list)) and func.__name__ != "__get__":  # its shape may be asked for
            for value in tree_leaves([args, kwargs]):
                if id(value) in self.by_id:
                    self.by_id[id(value)].takers += 1
        return output

    def pad(self, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
        version, output = version_of(input), F.pad(input, pad, mode, value)
        zeros = mode == "constant" and not value and len(pad) == 4 and min(pad) >= 0
        self.paddings.append(Output(output, (input, version, tuple(pad) if zeros else None), len(self.paddings)))
        self.by_id[id(output)] = self.paddings[-1]
        return output

    def convolution(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        output = torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        plain = not any(tree_leaves(padding)) and {*tree_leaves(dilation)} == {1}
        can_pad = plain and groups == input.shape[1] > 1 and input.device.type == "cpu"
        behind = next((each for each in self.paddings if each.value is input), None) if can_pad else None
        number = None if behind is None else behind.number
        self.convolutions.append(Output(output, (weight, bias), number))
        self.by_id[id(output)] = self.convolutions[-1]
        return output

    def normalization(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if id(input) in self.by_id and not training and running_mean is not None and running_var is not None:
            constants = {"bn_rm": running_mean, "bn_rv": running_var, "bn_eps": eps, "bn_w": weight, "bn_b": bias}
            self.by_id[id(input)].norm = constants
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def bounded(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._bounded(F.hardtanh(*args, **kwargs))

    def bounded_by_6(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._bounded(F.relu6(*args, **kwargs))

    def _bounded(self, output: Tensor) -> Tensor:
        self.bounds.append((output, output._version) if self.backward else (output, 0))
        return output

    def folds(self) -> Folds:
        """What was seen. A part that does not show itself, as a function of autograd, may make the answer another."""
        overwritten = self.backward and any(output._version != version for output, version in self.bounds)
        if not self.answerable or overwritten:
            return NOTHING
        paddings = {}
        for number, (input, version, amounts) in enumerate(padding.asked for padding in self.paddings):
            kept = version_of(input) == version  # the convolution will need it in the backward pass
            if kept and amounts is not None and self.paddings[number].takers == 1:
                paddings[number] = amounts
        convolutions = tuple(_fold(output, paddings) for output in self.convolutions)
        used = {output.number: paddings[output.number] for output in self.convolutions if output.number in paddings}
        return Folds(convolutions, used) if any(each.weight is not None for each in convolutions) else NOTHING


def _fold(output: Output, paddings: Mapping[int, Amounts]) -> Fold:
    original, bias = output.asked
    norm = output.norm if output.takers == 1 else None
    amounts = None if output.number is None else paddings.get(output.number)
    if norm is None and amounts is None:
        return Fold(original)
    weight, padding = original, None
    if norm is not None:
        weight, bias = fuse_conv_bn_weights(weight, bias, **norm)
    if amounts is not None:
        left, right, top, bottom = amounts
        padding = max(top, bottom), max(left, right)
        more = right - left, left - right, bottom - top, top - bottom  # zeros where more is padded than was asked for
        weight = F.pad(weight, tuple(max(0, zeros) for zeros in more))
    return Fold(original, weight.detach(), bias if bias is None else bias.detach(), norm is not None, padding)


def _is_saving_hooked() -> bool:
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("they are only asked for"):
            return False
    except RuntimeError:  # there are some
        return True
