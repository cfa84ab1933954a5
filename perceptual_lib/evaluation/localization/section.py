"""What a profile says of weak localization (Sec. 4.2)."""

from pydantic import NonNegativeFloat

from perceptual_lib.evaluation.sections import ALL_METHODS, RowsSection


class Section(RowsSection):
    methods: list[str] = ALL_METHODS
    sigmas: list[NonNegativeFloat] = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """Blurs of the maps that are tried, in pixels of the network's input."""
    layer_weights: list[NonNegativeFloat] = []  #: other values of lambda', tried on the pictures of the ranges
