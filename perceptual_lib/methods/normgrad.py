"""NormGrad (Rebuffi, Fong, Ji and Vedaldi 2020): how much each place of a layer would change the weights behind it."""

from torch import Tensor, nn

from perceptual_lib.methods.gradients import enlarge
from perceptual_lib.methods.layers import Layer, layer_gradient
from perceptual_lib.methods.registry import explainer


@explainer("normgrad", source="Rebuffi et al. 2020", cost="1 forward, 1 backward", predicts=True)
def normgrad(network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None) -> Tensor:
    """At each place the norm over channels of the gradient times that of the activation, enlarged.

    layer: an activation by index or name, or a module by its path; None for the last spatial activation.
    """
    activation, gradient = layer_gradient(network, images, targets, layer)
    return enlarge(gradient.norm(dim=1) * activation.norm(dim=1), images)


@explainer("selective_normgrad", source="Rebuffi et al. 2020", cost="1 forward, 1 backward", predicts=True)
def selective_normgrad(network: nn.Module, images: Tensor, targets: Tensor | None, *, layer: Layer = None) -> Tensor:
    """At each place the norm over channels of the positive part of activation times gradient, enlarged."""
    activation, gradient = layer_gradient(network, images, targets, layer)
    return enlarge((activation * gradient).relu().norm(dim=1), images)
