"""The hyperparameters of the perturbation. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from perceptual_lib.core.errors import InputError

Layers = int | str | range | Iterable[int | str | range]
"""Activations, see `activations.select_layers`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What Eq. 5 is minimized with; the defaults are the authors'.

    Attributes:
        layers: the activations that are held, by index, name or range (see `select_layers`); none is the paper's
            "NoPer" (Eq. 4).
        margin_target: T, the margin aimed at, below zero.
        layer_weight: lambda', for all layers. It multiplies squared activations, so it is not scale-free.
        pixel_weight: lambda.
        normalize_layers: divide each layer's term by that layer's mean square on the original image, so that one
            lambda' serves every network.
        multilabel: the margin is the class's response itself (Eq. 2), at its largest region where the network
            returns (B, K, h, w); otherwise its lead over the best other class (Eq. 1).
        max_iter: most steps of L-BFGS.

    Raises:
        InputError: a margin that is not below zero, a negative weight, no step.
    """

    layers: Layers = ()
    margin_target: float = -2.0
    layer_weight: float = 10_000.0
    pixel_weight: float = 1.0
    normalize_layers: bool = False
    multilabel: bool = False
    max_iter: int = 200

    def __post_init__(self) -> None:
        if self.margin_target >= 0 or self.layer_weight < 0 or self.pixel_weight < 0:
            raise InputError("margin_target must be below 0, and weights at least 0.")
        if self.max_iter < 1:
            raise InputError(f"max_iter must be at least 1, not {self.max_iter}.")
