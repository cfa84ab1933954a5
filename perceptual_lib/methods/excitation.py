"""Excitation backprop (Zhang et al. 2018): the class's winning probability, passed down along positive weights.

A neuron i that wins with probability p_i hands it to the neurons j that it sums, to each in proportion to what it
contributes by a positive weight: p_j = x_j sum_i w+_ij p_i / sum_k w+_ik x_k (their Eq. 5). Each operation is replaced
by one of the same value whose gradient is this rule, so that autograd does the rest.

The paper assumes activations that are not negative, and networks without batch normalization or residual sums. Here:

- where an activation may be negative, its positive part counts;
- normalization, pointwise activation and multiplication by constants or by a gate (squeeze-and-excitation) have one
  input for each output, which gets the output's whole probability;
- a residual sum divides its probability between its two terms, in proportion to their positive parts (TorchRay hands
  the whole to both, or, once its `update_resnet` was called, divides it in proportion to the signed terms).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from perceptual_lib.core.activations import ACTIVATION_FUNCTIONS
from perceptual_lib.core.calling import network_of
from perceptual_lib.core.errors import see, warn
from perceptual_lib.methods.gradients import Operation, is_open, pass_on, rules, zero
from perceptual_lib.methods.layers import Layer, enlarge, layer_gradient, layer_passes
from perceptual_lib.methods.registry import explainer
from perceptual_lib.networks.special import place, special


@explainer("excitation_backprop", source="Zhang et al. 2018", passes=layer_passes, predicts=True)
def excitation_backprop(network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None) -> Tensor:
    """The winning probability that arrives at a layer, summed over its channels, enlarged. Not contrastive.

    layer: a module by its path, or an activation by index or name; None for pool4 of VGG16 and VGG19bn, and on other
        networks for the last activation whose height is at least a sixteenth of the image's.
    """
    layer = place(network_of(network), special(network).excitation_layer) if layer is None else layer
    with rules(WINNING):
        _, excitation = layer_gradient(network, images, targets, layer, stride=16)
    most, least = float(excitation.sum((1, 2, 3)).max()), float(excitation.min())
    if most > 1.01 or least < -1e-6:
        what = f"{most:.2g} times the winning probability" if most > 1.01 else f"excitation below 0 ({least:.2g})"
        warn(
            f"{what} arrives: something on the way has no rule, as attention, and passes its plain gradient"
            f"{see('No spatial map')}."
        )
    return enlarge(excitation.sum(1).relu(), images)


def _weighted(
    func: Operation, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any
) -> Tensor:
    """A convolution or linear layer: its positive weights pass the probability on; a bias wins none."""
    positive = weight.detach().clamp(min=0)
    value = func(input.detach(), weight.detach(), bias, *rest, **more).detach()
    return value + _shared(lambda x: func(x, positive, None, *rest, **more), input)


def _product(func: Operation, input: Tensor, other: Tensor, **more: Any) -> Tensor:
    """A product of matrices: a linear layer where one of them is constant."""
    if more or is_open(input) == is_open(other):
        return func(input, other, **more)
    if is_open(other):
        return _weighted(lambda x, w, _: func(w, x), other, input)
    return _weighted(lambda x, w, _: func(x, w), input, other)


def _averaged(func: Operation, input: Tensor, *rest: Any, **more: Any) -> Tensor:
    """A mean, pooling by means or resizing, whose weights are positive."""
    rest, more = tree_map_only(Tensor, Tensor.detach, (rest, more))  # such as the grid of places
    return func(input.detach(), *rest, **more) + _shared(lambda x: func(x, *rest, **more), input)


def _shared(linear: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """Zero, of the linear operation's shape, with the rule as its gradient."""
    positive = input.detach().clamp(min=0)
    return linear(positive * zero(input)) * _inverse(linear(positive))


def _summed(func: Operation, input: Tensor, other: object, **more: Any) -> Tensor:
    """A residual sum."""
    if not (is_open(input) and is_open(other) and input.shape == other.shape) or more:
        return func(input, other, **more)  # a sum with a constant: its plain gradient is the rule
    terms = [term.detach().clamp(min=0) for term in (input, other)]
    inverse = _inverse(terms[0] + terms[1])
    value = input.detach() + other.detach()
    return value + terms[0] * inverse * zero(input) + terms[1] * inverse * zero(other)


def _multiplied(func: Operation, input: object, other: object, **more: Any) -> Tensor:
    """Multiplication by a constant or by a gate of fewer values, or division: the whole goes to what is multiplied."""
    if more or (is_open(input) and is_open(other) and input.shape == other.shape):
        return func(input, other, **more)  # neither is the gate of the other
    value, is_gated = max(filter(is_open, (input, other)), key=Tensor.numel), is_open(input) and is_open(other)
    product = func(*(factor.detach().clone() if isinstance(factor, Tensor) else factor for factor in (input, other)))
    return func(input, other) if is_gated and product.shape != value.shape else product + zero(value)


WINNING: dict[str, Operation] = {
    **dict.fromkeys("linear conv1d conv2d conv3d".split(), _weighted),
    **dict.fromkeys("conv_transpose1d conv_transpose2d conv_transpose3d".split(), _weighted),
    **dict.fromkeys("matmul mm mv bmm".split(), _product),
    **dict.fromkeys("sum mean avg_pool1d avg_pool2d avg_pool3d".split(), _averaged),
    **dict.fromkeys("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split(), _averaged),
    **dict.fromkeys("interpolate upsample grid_sample".split(), _averaged),
    **dict.fromkeys("add iadd radd".split(), _summed),
    **dict.fromkeys("mul imul rmul div idiv truediv itruediv true_divide".split(), _multiplied),
    **dict.fromkeys("batch_norm instance_norm group_norm layer_norm rms_norm local_response_norm".split(), pass_on),
    **dict.fromkeys(ACTIVATION_FUNCTIONS, pass_on),
}


def _inverse(total: Tensor) -> Tensor:
    """1 / total, and 0 where nothing positive was summed."""
    return torch.where(total > torch.finfo(total.dtype).tiny, 1 / total, 0)
