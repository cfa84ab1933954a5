"""The hyperparameters of the perturbation, and those that suit a given network. Imports no torch."""

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
    """The hyperparameters of Eq. 5 and of its minimization; the defaults are the authors', but for the layers.

    Attributes:
        layers: the layers to hold: activations by index, name or range (see `select_layers`), and outputs of modules
            by path. `()` is the paper's "NoPer" (Eq. 4); None holds all but the top fifth of the activations.
        margin_target: T, the margin aimed at, below zero.
        layer_weight: lambda', the same for all layers. It multiplies squared activations, so it is not scale-free.
        pixel_weight: lambda.
        normalize_layers: divide each layer's term by that layer's mean square on the original image, so that one
            lambda' serves every network.
        multilabel: the margin is the class's response itself (Eq. 2), at its largest region where the network
            returns (B, K, h, w); otherwise its lead over the best other class (Eq. 1).
        reach: the class is to be reached, not lost: the margin changes its sign (Eq. 1: the best other class's lead).
        max_iter: the largest number of L-BFGS steps.
        tolerance_map: the search for an image ends when its map, blurred by 5 pixels, is expected to be this close to
            the map after max_iter steps, as 1 minus their rank correlation; 0 never ends it early, see `rest`.

    Raises InputError for a margin target not below zero, a negative weight, no step, or a tolerance outside [0, 1).
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
    """Raise InputError unless the tolerance, 1 minus a rank correlation, is in [0, 1); 0 never stops early."""
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
    """Name of a VGG16 or VGG19 of torchvision or timm, as "vgg19_bn", told by its convolutions and norms; else ""."""
    norms = [_norm(module) for module in network.modules()]
    channels = tuple(module.out_channels for module in network.modules() if type(module).__name__ == "Conv2d")
    for name, own in VGG_CHANNELS.items():
        # Linear layers may be convolutions: in timm all but the last one, in a network of regions all of them.
        alike = channels in (own, (*own, 4096, 4096)) or channels[:-1] == (*own, 4096, 4096)
        if alike and norms.count("other") < len(own):  # a few others may be around it, or in its head
            return name + ("_bn" if norms.count("batch") >= len(own) else "")
    return ""


def _norm(module: Any) -> str:
    """The kind of a norm: "batch", also for the identity that fusing leaves in its place; "other"; "" for no norm."""
    names = [kind.__name__ for kind in type(module).__mro__]
    if names[0] == "Identity" or any("BatchNorm" in name for name in names):
        return "batch"
    return "other" if any("Norm" in name for name in names) else ""


def suited(network: Any, **given: Any) -> Settings:
    """The given settings; what suits the network stands in for missing ones and None. InputError for unknown names."""
    names = [each.name for each in fields(Settings)]
    if unknown := sorted(given.keys() - set(names)):
        close = nearest(unknown[0], [*names, "targets"])
        raise InputError(f"there is no setting {unknown[0]!r}{close}; there are {', '.join(names)}.")
    own = AUTHORS if architecture(network) == "vgg19_bn" else SCALE_FREE
    return Settings(**{**own, **{name: value for name, value in given.items() if value is not None}})
