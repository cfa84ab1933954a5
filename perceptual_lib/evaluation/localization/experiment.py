"""Weak localization (Sec. 4.2): Table 1 and Fig. 5, top."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd

from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.localization.table import localization_table
from perceptual_lib.evaluation.rows import Row
from perceptual_lib.photographs.photographs import Photograph


class Localization(Experiment):
    """Roles are "table" for Table 1, "range" for ranges of layers, "weight" for other values of lambda'.

    The table's hits are (250,) bool for the `THRESHOLDS`, None where the method failed. Of the squared map at this
    blur, edges is the share on the picture's `edge_mask`, and spread the share of pixels that it would cover if even.
    """

    name = "localization"
    columns = tuple("role method settings sigma photograph selection failure seconds hits edges spread".split())
    looks = True
    range_methods = ("perceptual", "perceptual_guided")  # the maps of both come from one perturbation

    @property
    def rows(self) -> list[Row]:
        if not (few := self.asked_ranges()):
            return super().rows
        # A trial without layers is the guided triangle's corner; for the unguided one the table has that row.
        most = max(map(self.asked_ranges, ["", *self.section.range_pictures]), key=len)
        corner = Row("range", "perceptual_guided", self.settings("no_perceptual"), most)
        tried = product(self.section.layer_weights, self.range_methods)
        weights = [self.tried("weight", method, few, layer_weight=weight) for weight, method in tried]
        return [*super().rows, corner, *weights]

    def arguments(self, row: Row, photographs: Sequence[Photograph]) -> dict[str, Any]:
        grey = row.method in self.section.grey
        return super().arguments(row, photographs) | {"sigmas": self.section.sigmas, "grey": grey}

    def overlaps(self, method: str, sigma: float, column: int) -> dict[str, float]:
        """By photograph that a method of the table explained, the fit of its box: the IoU of `localize`, at one of the
        section's sigmas and at the threshold whose index in `THRESHOLDS` is `column`."""
        blur, found = self.section.sigmas.index(sigma), {}
        for piece, shard in self.pieces:
            if (piece["role"], piece["method"]) == ("table", method):
                found |= {name: float(iou[blur, column]) for name, iou in self.explained(shard, "iou").items()}
        return found

    def overview(self) -> dict[str, pd.DataFrame]:
        return {"Table 1, weak localization: error": localization_table(self.table, pinned=self.section.pinned)}
