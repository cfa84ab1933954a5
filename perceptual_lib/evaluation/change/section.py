"""What a profile says of where the change goes (Secs. 1, 3 and 4): of the paper's own methods alone."""

from typing import Literal

from perceptual_lib.evaluation.sections import RowsSection


class Section(RowsSection):
    methods: list[Literal["no_perceptual", "perceptual"]] = ["no_perceptual", "perceptual"]
