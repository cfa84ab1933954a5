"""Excitation backprop (Zhang et al. 2018): the class's winning probability, passed down along what excites.

A neuron i that wins with probability p_i hands it to the neurons j that it sums, each in proportion to what it
contributes by a positive weight: p_j = x_j sum_i w+_ij p_i / sum_k w+_ik x_k (their Eq. 5). Each operation is replaced
by one of the same value whose gradient is this rule, so that autograd does the rest.

The paper assumes activations that are not negative, and networks without batch normalization or residual sums. Here:

- of an activation that may be negative the positive part counts (with ReLU that is all of it);
- normalization, pointwise activation and multiplication by constants or by a gate (squeeze-and-excitation) have one
  input for each output, which gets all that the output has. TorchRay does so with batch normalization;
- a residual sum divides between its two terms by their positive parts. TorchRay hands the whole to both, or divides
  by the terms with their signs where its `update_resnet` was called.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.activations import ACTIVATION_FUNCTIONS
from perceptual_lib.methods.gradients import enlarge
from perceptual_lib.methods.layers import Layer, default_layer, layer_gradient
from perceptual_lib.methods.registry import explainer

POOL4 = {"vgg16": "features.23", "vgg19_bn": "features.39"}  # the paper's layer on its networks


@explainer("excitation_backprop", source="Zhang et al. 2018", cost="1 forward, 1 backward")
def excitation_backprop(network: nn.Module, images: Tensor, targets: Tensor, *, layer: Layer = None) -> Tensor:
    """The winning probability that arrives at a layer, summed over its channels, enlarged. Not contrastive.

    layer: an activation by index or name, or a module by its path; None for pool4 of VGG16 and VGG19bn, and on other
        networks for the last activation of a sixteenth of the image's height.
    """
    if layer is None:
        layer = POOL4.get(getattr(network, "name", ""))
    if layer is None:
        layer = default_layer(network, images, stride=16)
    with winning_rule():
        _, excitation = layer_gradient(network, images, targets, layer)
    return enlarge(excitation.sum(1).relu(), images)


class winning_rule(TorchFunctionMode):
    """Context in which the gradient of an operation is the rule for the winning probability.

    Modules, functions and methods are seen alike, and nothing is left on the network.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        rule = RULES.get(getattr(func, "__name__", "").strip("_"))
        if rule is None or not any(map(_is_open, (*args, *(kwargs or {}).values()))):
            return func(*args, **(kwargs or {}))
        return rule(func, *args, **(kwargs or {}))


# The arguments have torch's own names, by which networks may give them.


def _weighted(func: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest, **settings) -> Tensor:
    """A convolution or linear layer: its positive weights pass the probability on; a bias wins none."""
    positive = weight.detach().clamp(min=0)
    value = func(input.detach(), weight.detach(), bias, *rest, **settings).detach()
    return value + _shared(lambda x: func(x, positive, None, *rest, **settings), input)


def _averaged(func: Callable, input: Tensor, *rest, **settings) -> Tensor:
    """A mean or pooling by means, whose weights are positive."""
    return func(input.detach(), *rest, **settings) + _shared(lambda x: func(x, *rest, **settings), input)


def _shared(linear: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """Zero, of the linear operation's shape, with the rule as its gradient."""
    positive = input.detach().clamp(min=0)
    return linear(positive * _zero(input)) * _inverse(linear(positive))


def _summed(func: Callable, input: Tensor, other: object, **settings) -> Tensor:
    """A residual sum. Its in-place form becomes one with a result of its own, which the caller takes up."""
    if not (_is_open(input) and _is_open(other) and input.shape == other.shape) or settings:
        return func(input, other, **settings)  # a sum with a constant: the gradient is the rule
    terms = [term.detach().clamp(min=0) for term in (input, other)]
    inverse = _inverse(terms[0] + terms[1])
    value = input.detach() + other.detach()
    return value + terms[0] * inverse * _zero(input) + terms[1] * inverse * _zero(other)


def _multiplied(func: Callable, input: object, other: object) -> Tensor:
    """Multiplication by a constant or by a gate of fewer values: the whole goes to what is multiplied."""
    if _is_open(input) and _is_open(other) and input.shape == other.shape:
        return func(input, other)  # neither is the gate of the other
    value = max(filter(_is_open, (input, other)), key=Tensor.numel)
    product = func(*(factor.detach().clone() if isinstance(factor, Tensor) else factor for factor in (input, other)))
    return product + _zero(value) if product.shape == value.shape else func(input, other)


def _pointwise(func: Callable, input: Tensor, *rest, **settings) -> Tensor:
    """An activation or normalization: the whole goes to the one input. May work in place, on a copy."""
    return func(input.detach().clone(), *rest, **settings) + _zero(input)


RULES: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys("linear conv1d conv2d conv3d".split(), _weighted),
    **dict.fromkeys("conv_transpose1d conv_transpose2d conv_transpose3d".split(), _weighted),
    **dict.fromkeys("mean avg_pool1d avg_pool2d avg_pool3d".split(), _averaged),
    **dict.fromkeys("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split(), _averaged),
    **dict.fromkeys("add iadd radd".split(), _summed),
    **dict.fromkeys("mul imul rmul".split(), _multiplied),
    **dict.fromkeys("batch_norm instance_norm group_norm layer_norm".split(), _pointwise),
    **dict.fromkeys(ACTIVATION_FUNCTIONS, _pointwise),
}


def _is_open(value: object) -> bool:
    """Whether a gradient is to pass here."""
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def _zero(value: Tensor) -> Tensor:
    """Zero with the gradient of `value`."""
    return value - value.detach()


def _inverse(total: Tensor) -> Tensor:
    """1 / total, and 0 where nothing positive was summed."""
    return torch.where(total > torch.finfo(total.dtype).tiny, 1 / total, 0)
