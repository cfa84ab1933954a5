"""What a profile says of the insertion and deletion games (Sec. 4.3)."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from perceptual_lib.evaluation.sections import ALL_METHODS, RowsSection


class Section(RowsSection):
    """The insertion and deletion games. Blurs are in pixels of the network's input, by RISE's kernel."""

    methods: list[str] = ALL_METHODS
    sigmas: dict[str, list[NonNegativeFloat]] = {
        "gradient": [0.0, 5.0],
        "guided_backprop": [0.0, 5.0],
        "no_perceptual": [0.0, 2.5, 5.0],
        "perceptual": [0.0, 1.0, 2.5, 5.0],
    }
    """Blurs of a method's maps; none for the others."""
    sweep: list[NonNegativeFloat] = []
    """More blurs of the maps of "perceptual"."""
    swept: NonNegativeInt = 0
    """The first so many pictures play with them."""
    range_sigmas: list[NonNegativeFloat] = [0.0, 5.0]
    """Blurs for ranges of layers."""
    step: PositiveInt = 8 * 224
    """Pixels that change at once."""
