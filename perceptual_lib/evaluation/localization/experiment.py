"""Weak localization (Sec. 4.2): Table 1 and Fig. 5, top."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.localization import score
from perceptual_lib.evaluation.localization.protocol import is_hit
from perceptual_lib.evaluation.localization.table import localization_table
from perceptual_lib.evaluation.rows import Row
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays


class Localization(Experiment):
    """Roles are "table" for Table 1, "range" for ranges of layers, "weight" for other values of lambda'.

    Hits of the table are (250,) bool for the `THRESHOLDS`, none where it failed.
    """

    name = "localization"
    columns = tuple("role method settings sigma photograph selection failure seconds hits".split())
    scores = score
    range_methods = ("perceptual", "perceptual_guided")  # whose maps come from one perturbation

    @property
    def rows(self) -> list[Row]:
        few, settings = tuple(self.pictures[: self.section.ranges]), self.settings("perceptual")
        weights = [
            Row("weight", method, settings | {"layer_weight": weight}, few)
            for weight in (self.section.layer_weights if few else ())
            for method in self.range_methods
        ]
        return [*super().rows, *weights]

    def arguments(self, row: Row, photographs: Sequence[Photograph]) -> dict[str, Any]:
        return super().arguments(row, photographs) | {"sigmas": self.section.sigmas}

    def lines(self, shard: Shard, picture: Photograph, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        hits = [None] * len(self.section.sigmas) if arrays is None else is_hit(arrays["iou"])
        for sigma, of_blur in zip(self.section.sigmas, hits, strict=True):
            yield {"sigma": sigma, "hits": of_blur}

    def overview(self) -> dict[str, pd.DataFrame]:
        return {"Table 1, weak localization: error": localization_table(self.table)}
