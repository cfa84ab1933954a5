"""The paper's own method among the others, and with captum's manners."""

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import Layers, freeze, list_layers, network_of, trace
from perceptual_lib.core.networks import Classifier, default_settings
from perceptual_lib.core.perturbation import perceptual_ball
from perceptual_lib.core.saliency import class_gradient, saliency_map
from perceptual_lib.methods.registry import explainer

GUIDED_LAYERS = {"vgg19_bn": "0-14"}  # Sec. 4.2; other networks' as for the unguided variant


@explainer("no_perceptual", source="this paper, Eq. 4", cost="about 10 forward, 10 backward", predicts=True)
def no_perceptual(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    sigma: float = 5.0,
    root: bool = True,
    max_iter: int = 200,
) -> Tensor:
    """Size of the smallest change that takes the class away, no activation held; sigma, root: see `saliency_map`."""
    result = perceptual_ball(network, images, targets, max_iter=max_iter)
    return saliency_map(result.delta, sigma, root=root)


@explainer("perceptual", source="this paper, Eq. 5", cost="60 forward, 60 backward (VGG19bn: 200)", predicts=True)
def perceptual(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    layers: Layers | None = None,
    sigma: float = 5.0,
    root: bool = True,
    max_iter: int | None = None,
) -> Tensor:
    """Size of the smallest change on the perceptual ball that takes the class away.

    layers: the activations held; None for `default_settings`, as for max_iter. sigma, root: see `saliency_map`.
    """
    result = perceptual_ball(network, images, targets, **_settings(network, images, layers, max_iter))
    return saliency_map(result.delta, sigma, root=root)


@explainer(
    "perceptual_guided", source="this paper, Sec. 4.2", cost="61 forward, 61 backward (VGG19bn: 201)", predicts=True
)
def perceptual_guided(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    layers: Layers | None = None,
    sigma: float = 5.0,
    max_iter: int | None = None,
) -> Tensor:
    """The perceptual change times the gradient of the class's logit. Settings as for `perceptual`."""
    layers = GUIDED_LAYERS.get(getattr(network, "name", "")) if layers is None else layers
    result = perceptual_ball(network, images, targets, **_settings(network, images, layers, max_iter))
    return saliency_map(result.delta, sigma, gradient=class_gradient(network, images, result.targets))


class PerceptualBall:
    """The method as captum's users know theirs: `PerceptualBall(model).attribute(inputs, target)`.

    Args:
        model: a `Classifier` or any module from images to logits.
        layers: the activations held; None for `default_settings`.
        settings: further arguments of `perceptual_ball`.
    """

    def __init__(self, model: nn.Module, layers: Layers | None = None, **settings: object) -> None:
        self.model = model
        self.layers = None if layers is None else list_layers(layers)
        self.settings = settings

    def attribute(self, inputs: Tensor, target: None | int | Tensor = None) -> Tensor:
        """The squared change of each input value, (B, C, H, W); its mean over channels is the paper's map.

        Args:
            inputs: (B, C, H, W).
            target: None for the prediction, one class index for all, or (B,) int64.
        """
        settings = _settings(self.model, inputs, self.layers, None) | self.settings
        return perceptual_ball(self.model, inputs, target, **settings).delta.square()


def _settings(network: nn.Module, images: Tensor, layers: Layers | None, max_iter: int | None) -> dict:
    """Arguments of `perceptual_ball`: the network's defaults, and what was asked for."""
    with torch.inference_mode(False), freeze(network):
        count = len(trace(network_of(network), images[:1].clone())[1])
    name = network.name if isinstance(network, Classifier) else ""
    asked = {"layers": layers, "max_iter": max_iter}
    return default_settings(name, count) | {key: value for key, value in asked.items() if value is not None}
