"""What a profile says of weak localization (Sec. 4.2)."""

from pydantic import NonNegativeFloat

from perceptual_lib.evaluation.sections import ALL_METHODS, RowsSection, Sigmas


class Section(RowsSection):
    methods: list[str] = ALL_METHODS
    sigmas: Sigmas = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]  #: blurs of the maps that are tried
    pinned: NonNegativeFloat | None = None
    """One of them, at which the table has every method beside the one chosen for it; none for no such columns."""
    grey: list[str] = []
    """Methods whose maps are clipped at the 99th percentile of their values, as PyTorch CNN Visualizations does."""
    layer_weights: list[NonNegativeFloat] = []  #: other values of lambda', tried on the pictures of the ranges
