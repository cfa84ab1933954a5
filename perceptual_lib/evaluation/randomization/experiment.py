"""Sanity checks (Sec. 4.5): what Fig. 7 shows, in numbers."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.evaluation.experiment import Experiment, Piece
from perceptual_lib.evaluation.places import share_inside
from perceptual_lib.evaluation.randomization import score
from perceptual_lib.evaluation.randomization.table import randomization_table
from perceptual_lib.evaluation.rows import as_json
from perceptual_lib.methods import find_method
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays

MEASURES = ("correlation", "ssim", "inside", "area")


class Randomization(Experiment):
    """The network forgets layer after layer, and each method's maps are compared with those of the trained one.

    A line is a stage: 0 is the trained network, and each later stage has one more layer as before training, from the
    last to the first; layer is its path, "" at stage 0. Correlation (of ranks) and ssim are with the map of stage 0;
    inside is the share of the map's square that lies inside the object's boxes, and area the boxes' share of the
    picture. nan where it failed; inside also where the map is 0.
    """

    name = "randomization"
    columns = (*"role method settings seed photograph selection failure seconds stage layer".split(), *MEASURES)
    scores = score

    def all_pieces(self) -> Iterator[Piece]:
        size = self.profile.batch_size
        for method in self.section.methods:
            settings = self.settings(method)
            passes = tuple(count * (1 + len(self.layers)) for count in find_method(method).passes(settings))
            for seed in range(self.section.seeds):
                about = {"role": "table", "method": method, "settings": as_json(settings), "seed": seed}
                arguments = {
                    "method": method,
                    "settings": settings,
                    "model": self.profile.classifier.model,
                    "layers": self.layers,
                    "seed": seed,
                    "sigma": self.section.sigma,
                }
                for start in range(0, len(self.pictures), size):
                    few = tuple(self.pictures[start : start + size])
                    label = f"{method} of random networks"
                    yield about, Shard(self.scores.__name__, arguments, few, label=label, passes=passes)

    @cached_property
    def layers(self) -> list[str]:
        """What is randomized, in order."""
        return self.run.ask("stages")

    def lines(self, shard: Shard, picture: Photograph, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        layers = ["", *shard.arguments["layers"]]
        measures = {} if arrays is None else self._measures(picture, arrays)
        for stage, layer in enumerate(layers):
            values = {name: float(measures[name][stage]) if measures else float("nan") for name in MEASURES}
            yield {"stage": stage, "layer": layer, **values}

    @staticmethod
    def _measures(picture: Photograph, arrays: Arrays) -> dict[str, np.ndarray]:
        """By name, (stages,) each."""
        maps = arrays["maps"].astype(np.float64)
        mask = picture.box_mask(*maps.shape[1:])
        return {
            "correlation": arrays["correlation"],
            "ssim": arrays["ssim"],
            "inside": share_inside(maps**2, np.broadcast_to(mask, maps.shape)),
            "area": np.full(len(maps), mask.mean()),
        }

    def overview(self) -> dict[str, pd.DataFrame]:
        measures = {"correlation": "rank correlation", "ssim": "SSIM"}
        return {
            f"Sanity checks, {words} with the first map": randomization_table(self.table, measure)
            for measure, words in measures.items()
        }
