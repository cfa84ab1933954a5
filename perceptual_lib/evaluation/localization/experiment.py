"""Weak localization (Sec. 4.2): Table 1 and Fig. 5, top."""

from collections.abc import Iterator
from typing import Any

from perceptual_lib.evaluation.experiment import Experiment, Piece
from perceptual_lib.evaluation.localization.protocol import is_hit
from perceptual_lib.evaluation.rows import PERTURBATIONS, Row, range_rows, row_settings, table_rows
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays


class Localization(Experiment):
    """Roles are "table" for Table 1, "range" for ranges of layers, "weight" for other values of lambda'.

    Hits of the table are (250,) bool for the `THRESHOLDS`, none where it failed.
    """

    name = "localization"
    columns = tuple("role method settings sigma photograph selection failure seconds hits".split())

    @property
    def rows(self) -> list[Row]:
        """Everything that is compared."""
        arguments = self.profile, self.section, self.pictures
        few = tuple(self.pictures[: self.section.ranges])
        settings = row_settings(self.profile, self.section, "perceptual")
        pair = "perceptual", "perceptual_guided"  # whose maps come from one perturbation
        weights = [
            Row("weight", method, settings | {"layer_weight": weight}, few)
            for weight in (self.section.layer_weights if few else ())
            for method in pair
        ]
        return [*table_rows(*arguments), *range_rows(*arguments, self.run.ask("activations"), pair), *weights]

    def all_pieces(self) -> Iterator[Piece]:
        height, width = self.run.network["input_size"]
        for row in self.rows:
            for maps in row.map_shards(self.profile.batch_size):
                arguments = {
                    "array": PERTURBATIONS.get(row.method, "maps"),
                    "sigmas": self.section.sigmas,
                    "by_image": {"boxes": [photograph.scaled_boxes(height, width) for photograph in maps.photographs]},
                }
                yield (
                    row.about,
                    Shard(
                        "perceptual_lib.evaluation.localization.score",
                        arguments,
                        maps.photographs,
                        False,
                        maps,
                        f"score {row.name}",
                    ),
                )

    def lines(self, shard: Shard, picture: Photograph, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        hits = [None] * len(self.section.sigmas) if arrays is None else is_hit(arrays["iou"])
        for sigma, of_blur in zip(self.section.sigmas, hits, strict=True):
            yield {"sigma": sigma, "hits": of_blur}
