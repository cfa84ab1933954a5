"""Where the change of the image goes (Secs. 1, 3 and 4; Figs. 2 and 4)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from perceptual_lib.evaluation.experiment import Experiment, Piece
from perceptual_lib.evaluation.rows import range_rows, table_rows
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays

MEASURES = "margin_before margin inside area size spread".split()


class Change(Experiment):
    """Roles are "table" for the profile's own perturbations and "range" for ranges of layers.

    Of the columns margin_before and margin are those of the image and of the changed image; inside is the share of the
    squared change inside the object's boxes and area the share of the picture that they cover; size is the root mean
    square of the change over pixels and channels, in 0..255; spread is the share of pixels that the squared change
    would cover if it were even. nan where it failed.
    """

    name = "change"
    columns = tuple(["role", "method", "settings", "photograph", "selection", "failure", "seconds", *MEASURES])

    def all_pieces(self) -> Iterator[Piece]:
        arguments = self.profile, self.section, self.pictures
        height, width = self.run.network["input_size"]
        unit = 255 * float(np.mean(self.run.network["std"]))  # of the network's input, in 0..255
        for row in [*table_rows(*arguments), *range_rows(*arguments, self.run.ask("activations"))]:
            for maps in row.map_shards(self.profile.batch_size):
                boxes = [photograph.scaled_boxes(height, width) for photograph in maps.photographs]
                by_image = {"by_image": {"boxes": boxes}}
                yield (
                    row.about,
                    Shard(
                        "perceptual_lib.evaluation.change.score",
                        {"unit": unit} | by_image,
                        maps.photographs,
                        False,
                        maps,
                        f"measure {row.name}",
                    ),
                )

    def lines(self, shard: Shard, picture: Photograph, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        yield {name: float("nan") if arrays is None else float(arrays[name]) for name in MEASURES}
