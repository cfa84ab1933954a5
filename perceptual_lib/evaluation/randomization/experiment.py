"""Sanity checks (Sec. 4.5): what Fig. 7 shows, in numbers."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import pandas as pd

from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.randomization.table import randomization_table
from perceptual_lib.evaluation.rows import Row, batches
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard


class Randomization(Experiment):
    """The network forgets layer after layer, and each method's maps are compared with those of the trained one.

    A line is a stage: 0 is the trained network, and each later stage has one more layer as before training, from the
    last to the first; layer is that layer's path, "" at stage 0. Correlation (of ranks) and ssim are with the map of
    stage 0; inside is the share of the squared map inside the object's boxes, and area the boxes' share of the picture;
    textured is the share in the quarter of the picture with the most texture, see `edge_mask`. nan where the method
    failed; inside and textured also where the map is 0.
    """

    name = "randomization"
    columns = (
        *"role method settings seed photograph selection failure seconds".split(),
        *"stage layer correlation ssim inside area textured".split(),
    )

    @property
    def rows(self) -> list[Row]:
        each = product(self.section.methods, range(self.section.seeds))
        return [Row("table", name, self.settings(name), tuple(self.pictures), {"seed": seed}) for name, seed in each]

    def shards_of(self, row: Row) -> Iterator[Shard]:
        network = {"model": self.profile.classifier.model, "layers": self.layers, "sigma": self.section.sigma}
        shared = {"method": row.method, "settings": row.settings, **row.more, **network}
        passes = tuple(count * (1 + len(self.layers)) for count in row.passes)
        for few in batches(row.photographs, self.profile.batch_size):
            arguments = shared | {"by_image": self.arguments(row, few)["by_image"]}
            yield Shard(self.kind, arguments, few, label=f"{row.method} of random networks", passes=passes)

    @cached_property
    def layers(self) -> list[str]:
        """The layers that are randomized, in order."""
        return self.run.ask("stages")

    def cases(self, shard: Shard, picture: Photograph) -> dict[str, Sequence[Any]]:
        return {"stage": range(1 + len(self.layers)), "layer": ["", *self.layers]}

    def overview(self) -> dict[str, pd.DataFrame]:
        return {
            "Sanity checks, rank correlation with the first map": randomization_table(self.table, "correlation"),
            "Sanity checks, SSIM with the first map": randomization_table(self.table, "ssim"),
        }
