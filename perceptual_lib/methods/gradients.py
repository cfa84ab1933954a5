"""Methods that read the gradient of the class's logit, as it is or with other rules for its way back."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.activations import ACTIVATION_FUNCTIONS, watch
from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.checks import resolve_targets
from perceptual_lib.core.passes import with_folds
from perceptual_lib.methods.layers import Layer, layer_gradient
from perceptual_lib.methods.registry import explainer


@explainer("gradient", source="Simonyan et al. 2014", cost="1 forward, 1 backward", predicts=True)
def gradient(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Largest magnitude over the channels of the logit's gradient."""
    return input_gradient(network, images, targets).abs().amax(1)


@explainer("deconvnet", source="Zeiler and Fergus 2014", cost="1 forward, 1 backward", predicts=True)
def deconvnet(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The gradient with each activation passing on what is positive of what comes back, whatever went forward."""
    with deconvnet_rule():
        return input_gradient(network, images, targets).abs().amax(1)


@explainer("guided_backprop", source="Springenberg et al. 2015", cost="1 forward, 1 backward", predicts=True)
def guided_backprop(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The gradient with each activation passing on what is positive of what comes back, where it was active."""
    return guided_gradient(network, images, targets).abs().amax(1)


@explainer("smoothgrad", source="Smilkov et al. 2017", cost="{samples} forward, {samples} backward")
def smoothgrad(
    network: nn.Module, images: Tensor, targets: Tensor, *, samples: int = 50, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """The gradient averaged over noisy copies of the image.

    noise: standard deviation of the Gaussian noise, as a share of the image's range of values.
    """
    network = with_folds(network, images)
    generator = torch.Generator().manual_seed(seed)
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(images)
    at_once = max(1, full_batch(images.device) // len(images))  # of the samples
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        # The same draws for all images of the batch: an image's map does not depend on its neighbours.
        draws = torch.randn(count, *images.shape[1:], generator=generator, dtype=images.dtype).to(images.device)
        noisy = (images[None] + spread * draws[:, None]).flatten(0, 1)  # (count B, C, H, W)
        total += input_gradient(network, noisy, targets.repeat(count)).unflatten(0, (count, -1)).sum(0)
    return (total / samples).abs().amax(1)


@explainer("integrated_gradients", source="Sundararajan et al. 2017", cost="{steps} forward, {steps} backward")
def integrated_gradients(network: nn.Module, images: Tensor, targets: Tensor, *, steps: int = 100) -> Tensor:
    """The gradient averaged along the line from a mean-grey image, not multiplied by the image (captum)."""
    from captum.attr import IntegratedGradients  # an import that takes a second

    attribute = IntegratedGradients(with_folds(network, images), multiply_by_inputs=False).attribute
    at_once = max(len(images), full_batch(images.device))
    return attribute(images, target=targets, n_steps=steps, internal_batch_size=at_once).abs().amax(1)


@explainer("grad_cam", source="Selvaraju et al. 2017", cost="1 forward, 1 backward", predicts=True)
def grad_cam(network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None) -> Tensor:
    """A layer's channels, weighted by the mean gradient of each, summed, the positive part, enlarged.

    layer: an activation by index or name, or a module by its path; None for the last spatial activation.
    """
    activation, gradient = layer_gradient(network, images, targets, layer)
    return enlarge((gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu(), images)


@explainer("guided_grad_cam", source="Selvaraju et al. 2017", cost="2 forward, 2 backward", predicts=True)
def guided_grad_cam(network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None) -> Tensor:
    """Guided backpropagation times Grad-CAM, the largest magnitude over the channels. layer: as for grad_cam."""
    coarse = grad_cam(network, images, targets, layer=layer)
    return (guided_gradient(network, images, targets) * coarse[:, None]).abs().amax(1)


def input_gradient(network: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor | None) -> Tensor:
    """Gradient (B, C, H, W) of each image's own logit, of the largest without targets. Raises as `known_targets`."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = network(images)
        targets = resolve_targets(logits, len(images), targets)
        return torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), images)[0]


def guided_gradient(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Gradient (B, C, H, W) by the rule of guided backpropagation."""
    with watch(lambda _, output: PositiveGradient.apply(output)):
        return input_gradient(network, images, targets)


def enlarge(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) at the images' size (B, H, W) and in their type, bilinearly."""
    return F.interpolate(maps[:, None].to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


class deconvnet_rule(TorchFunctionMode):
    """Context in which activations let the positive part of the gradient back, whatever they did on the way forward."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "").rstrip("_") not in ACTIVATION_FUNCTIONS:
            return func(*args, **kwargs)
        given = args[0] if args else kwargs.pop("input")
        value = func(given.clone(), *args[1:], **kwargs)  # in place on the copy, where it is
        return PositivePassage.apply(given, value)


class PositivePassage(Function):
    """Another value in place of the input, with the positive part of the gradient for the input."""

    @staticmethod
    def forward(ctx, replaced: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(min=0), None


class PositiveGradient(Function):
    """The identity, letting only positive gradients back."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return value.clone()  # an in-place operation may follow

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.clamp(min=0)
