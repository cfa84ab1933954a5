"""The paper's own method among the others, and with the interface of captum's methods."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.saliency import input_gradient, saliency_map
from perceptual_lib.core.selection import list_layers
from perceptual_lib.core.settings import SCALE_FREE, Layers
from perceptual_lib.methods.registry import explainer
from perceptual_lib.networks.special import special

FREE_STEPS = 12  # after so many L-BFGS is usually done where no activation is held


def search_passes(settings: Mapping[str, Any], gradients: int = 0) -> tuple[int, int]:
    """(forward, backward) passes: for C_l(x), for an evaluation at the start and after each step, for the margin at the
    end, and for gradients."""
    steps: int = settings["max_iter"] or SCALE_FREE["max_iter"]
    free = settings["layers"] is not None and not list_layers(settings["layers"])
    if free and not settings["multilabel"]:  # the multilabel margin (Eq. 2) is farther from its target
        steps = min(steps, FREE_STEPS)
    return steps + 3 + gradients, steps + 1 + gradients


@explainer("no_perceptual", title="NoPer", source="this paper, Eq. 4", passes=search_passes, predicts=True, ours=True)
def no_perceptual(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    sigma: float = 5.0,
    root: bool = True,
    layers: Layers = (),
    max_iter: int = 200,
    **settings: Any,
) -> Tensor:
    """Size of the smallest change that takes the class away, with no activation held. Settings as for `perceptual`."""
    if list_layers(layers):
        raise InputError(f"no_perceptual holds no activation, but got layers {layers!r}; perceptual holds them.")
    return perceptual(network, images, targets, sigma=sigma, root=root, layers=(), max_iter=max_iter, **settings)


@explainer("perceptual", source="this paper, Eq. 5", passes=search_passes, predicts=True, ours=True)
def perceptual(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    sigma: float = 5.0,
    root: bool = True,
    **settings: Any,
) -> Tensor:
    """Size of the smallest change on the perceptual ball that takes the class away.

    sigma, root: see `saliency_map`; settings: see `Settings`.
    """
    return saliency_map(perceptual_ball(network, images, targets, **settings).delta, sigma, root=root)


@explainer(
    "perceptual_guided",
    source="this paper, Sec. 4.2",
    passes=partial(search_passes, gradients=1),
    predicts=True,
    ours=True,
)
def perceptual_guided(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    sigma: float = 5.0,
    layers: Layers | None = None,
    **settings: Any,
) -> Tensor:
    """The perceptual change times the gradient of the class's logit. Settings as for `perceptual`."""
    layers = special(network).guided_layers if layers is None else layers
    result = perceptual_ball(network, images, targets, layers=layers, **settings)
    return saliency_map(result.delta, sigma, gradient=input_gradient(network, images, result.targets))


class PerceptualBall:
    """The method with the interface of captum's methods: `PerceptualBall(model).attribute(inputs, target)`.

    Args:
        model: a `Classifier` or any module from images to logits.
        layers: the layers to hold; None for what suits the network.
        settings: further arguments of `perceptual_ball`.
    """

    def __init__(self, model: nn.Module, layers: Layers | None = None, **settings: Any) -> None:
        self.model = model
        self.layers = None if layers is None else list_layers(layers)
        self.settings = settings

    def attribute(self, inputs: Tensor, target: None | int | Tensor = None) -> Tensor:
        """The squared change of each input value, (B, C, H, W); its mean over channels is the paper's map.

        target: None for the prediction, one class index for all, or (B,) int64.
        """
        return perceptual_ball(self.model, inputs, target, layers=self.layers, **self.settings).delta.square()
