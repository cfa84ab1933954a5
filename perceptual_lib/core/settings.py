"""The hyperparameters of the perturbation, and which suit a network. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite
from numbers import Integral, Real
from typing import Any

from perceptual_lib.core.errors import InputError, nearest

Layers = int | str | range | Iterable[int | str | range]
"""Activations, see `selection.select_layers`; outputs of modules, by their paths."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What Eq. 5 is minimized with; the defaults are the authors'.

    Attributes:
        layers: what is held: activations by index, name or range (see `select_layers`), and the outputs of modules by
            their paths. Nothing is the paper's "NoPer" (Eq. 4), None all but the top fifth of the activations.
        margin_target: T, the margin aimed at, below zero.
        layer_weight: lambda', for all layers. It multiplies squared activations, so it is not scale-free.
        pixel_weight: lambda.
        normalize_layers: divide each layer's term by that layer's mean square on the original image, so that one
            lambda' serves every network.
        multilabel: the margin is the class's response itself (Eq. 2), at its largest region where the network
            returns (B, K, h, w); otherwise its lead over the best other class (Eq. 1).
        reach: the class is one to be reached, not lost: the margin is what the best other class leads by.
        max_iter: most steps of L-BFGS.
        tolerance_map: an image ends when its map, blurred by 5 pixels, is not expected to move further than this, as 1
            less its rank correlation with the map after max_iter steps; 0 for never, see `rest`.

    Raises InputError for a margin that is not below zero, a negative weight, no step, a tolerance outside [0, 1).
    """

    layers: Layers | None = ()
    margin_target: float = -2.0
    layer_weight: float = 10_000.0
    pixel_weight: float = 1.0
    normalize_layers: bool = False
    multilabel: bool = False
    reach: bool = False
    max_iter: int = 200
    tolerance_map: float = 0.0

    def __post_init__(self) -> None:
        numbers = self.margin_target, self.layer_weight, self.pixel_weight
        if not all(isinstance(each, Real) and isfinite(each) for each in numbers):
            raise InputError("margin_target, layer_weight and pixel_weight must be finite numbers.")
        if self.margin_target >= 0 or self.layer_weight < 0 or self.pixel_weight < 0:
            raise InputError("margin_target must be below 0, and weights at least 0.")
        if not isinstance(self.max_iter, Integral) or self.max_iter < 1:
            raise InputError(f"max_iter must be a whole number, at least 1, not {self.max_iter!r}.")
        check_tolerance(self.tolerance_map)


def check_tolerance(tolerance: float) -> None:
    """Raise InputError unless it is 1 less a rank correlation that maps can have; 0 asks for no rest."""
    if not isinstance(tolerance, Real) or not 0 <= tolerance < 1:
        raise InputError(f"tolerance_map is 1 less a rank correlation, at least 0 and below 1, not {tolerance!r}.")


VGG_CHANNELS = {
    "vgg16": (64, 64, 128, 128, *[256] * 3, *[512] * 6),
    "vgg19": (64, 64, 128, 128, *[256] * 4, *[512] * 8),
}
AUTHORS: dict[str, Any] = {"layers": "0-12", "layer_weight": 10_000.0, "normalize_layers": False, "max_iter": 200}
"""Of Sec. 4.3, for VGG19 with batch normalization, whose activations lambda' = 10000 fits."""
SCALE_FREE: dict[str, Any] = {"layers": None, "layer_weight": 100.0, "normalize_layers": True, "max_iter": 60}
"""Of any other network."""


def architecture(network: Any) -> str:
    """ "vgg16", "vgg19_bn" and so on, of torchvision or timm, by its convolutions and batch norms; "" for another."""
    norms = [_norm(module) for module in network.modules()]
    channels = tuple(module.out_channels for module in network.modules() if type(module).__name__ == "Conv2d")
    for name, own in VGG_CHANNELS.items():
        # Linear layers may be convolutions: timm's but the last, of a network of regions all.
        alike = channels in (own, (*own, 4096, 4096)) or channels[:-1] == (*own, 4096, 4096)
        if alike and norms.count("other") < len(own):  # one may be around it, or in its head
            return name + ("_bn" if norms.count("batch") >= len(own) else "")
    return ""


def _norm(module: Any) -> str:
    """Whether it is a "batch" norm, or the identity that fusing leaves of one, an "other" norm, or none."""
    names = [kind.__name__ for kind in type(module).__mro__]
    if names[0] == "Identity" or any("BatchNorm" in name for name in names):
        return "batch"
    return "other" if any("Norm" in name for name in names) else ""


def suited(network: Any, **given: Any) -> Settings:
    """What is given, and for each hyperparameter that is not, or None, what suits the network."""
    names = [each.name for each in fields(Settings)]
    if unknown := sorted(given.keys() - set(names)):
        close = nearest(unknown[0], [*names, "targets"])
        raise InputError(f"there is no setting {unknown[0]!r}{close}; there are {', '.join(names)}.")
    own = AUTHORS if architecture(network) == "vgg19_bn" else SCALE_FREE
    return Settings(**{**own, **{name: value for name, value in given.items() if value is not None}})
