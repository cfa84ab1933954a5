"""What a profile says of the insertion and deletion games (Sec. 4.3).

Blurs are in pixels of the network's input, by RISE's kernel.
"""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from perceptual_lib.evaluation.sections import ALL_METHODS, RowsSection


class Section(RowsSection):
    methods: list[str] = ALL_METHODS
    sigmas: dict[str, list[NonNegativeFloat]] = {
        "gradient": [0.0, 5.0],
        "guided_backprop": [0.0, 5.0],
        "no_perceptual": [0.0, 2.5, 5.0],
        "perceptual": [0.0, 1.0, 2.5, 5.0],
    }  #: blurs of a method's maps; none for the others
    sweep: list[NonNegativeFloat] = []  #: more blurs of the maps of "perceptual"
    swept: NonNegativeInt = 0  #: the first so many pictures play with them
    single: NonNegativeInt = 0  #: of each method the first so many pictures play single deletion, with its `sigmas`
    range_sigmas: list[NonNegativeFloat] = [0.0, 5.0]  #: blurs for ranges of layers
    step: PositiveInt = 8 * 224  #: pixels that change at once
