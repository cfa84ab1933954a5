"""Grad-CAM and NormGrad: a late layer's activation and its gradient, put together place by place.

`layer` is a module by its path, an activation by index or name, or None for the last spatial activation; in a
transformer for the last tokens that the scores depend on, and a warning says which. Where a layer's output (B, ...) is
neither a map nor tokens whose grid is found, `reshape` makes (B, channels, h, w) of it, by moving values alone.
"""

from torch import Tensor, nn

from perceptual_lib.methods.gradients import check_reduction, guided_gradient, one_channel
from perceptual_lib.methods.layers import Layer, Reshape, enlarge, layer_gradient, layer_passes
from perceptual_lib.methods.registry import explainer


@explainer("grad_cam", title="Grad-CAM", source="Selvaraju et al. 2017", passes=layer_passes, predicts=True)
def grad_cam(
    network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None, reshape: Reshape = None
) -> Tensor:
    """The positive part of the sum of a layer's channels, each weighted by its mean gradient, enlarged."""
    activation, gradient = layer_gradient(network, images, targets, layer, reshape)
    return enlarge((gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu(), images)


@explainer(
    "guided_grad_cam",
    title="guided Grad-CAM",
    source="Selvaraju et al. 2017",
    passes=lambda settings: (layer_passes(settings)[0] + 1, 2),
    predicts=True,
)
def guided_grad_cam(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    layer: Layer = None,
    reshape: Reshape = None,
    reduction: str = "max",
) -> Tensor:
    """Guided backpropagation times Grad-CAM; reduction: see `one_channel`."""
    check_reduction(reduction)
    coarse = grad_cam(network, images, targets, layer=layer, reshape=reshape)
    return one_channel(guided_gradient(network, images, targets) * coarse[:, None], reduction)


@explainer("normgrad", title="NormGrad", source="Rebuffi et al. 2020", passes=layer_passes, predicts=True)
def normgrad(
    network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None, reshape: Reshape = None
) -> Tensor:
    """How much each place would change the weights behind it: the norm of its gradient times that of its activation."""
    activation, gradient = layer_gradient(network, images, targets, layer, reshape)
    return enlarge(gradient.norm(dim=1) * activation.norm(dim=1), images)


@explainer(
    "selective_normgrad", title="selective NormGrad", source="Rebuffi et al. 2020", passes=layer_passes, predicts=True
)
def selective_normgrad(
    network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None, reshape: Reshape = None
) -> Tensor:
    """At each place the norm over channels of the positive part of activation times gradient, enlarged."""
    activation, gradient = layer_gradient(network, images, targets, layer, reshape)
    return enlarge((activation * gradient).relu().norm(dim=1), images)
