"""Sanity checks (Sec. 4.5): what Fig. 7 shows, in numbers."""

from collections.abc import Iterator
from typing import Any

from perceptual_lib.experiments.base import Experiment, Piece
from perceptual_lib.experiments.rows import as_json, passes, row_settings
from perceptual_lib.images import Photograph
from perceptual_lib.keys import Shard
from perceptual_lib.results import Arrays


class Randomization(Experiment):
    """The network forgets layer after layer, and each method's maps are compared with those of the trained one.

    A line is a stage: 0 is the trained network, and each later stage has one more layer as before training, from the
    last to the first; layer is its path, "" at stage 0. Correlation (of ranks) and ssim are with the map of stage 0,
    nan where it failed.
    """

    name = "randomization"
    columns = tuple(
        "role method settings seed photograph selection failure seconds stage layer correlation ssim".split()
    )

    def all_pieces(self) -> Iterator[Piece]:
        size = self.profile.batch_size
        for method in self.section.methods:
            settings = row_settings(self.profile, self.section, method)
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
                    yield (
                        about,
                        Shard(
                            "randomization",
                            arguments,
                            tuple(self.pictures[start : start + size]),
                            label=f"{method} of random networks",
                            passes=tuple(count * (1 + len(self.layers)) for count in passes(method, settings)),
                        ),
                    )

    @property
    def layers(self) -> list[str]:
        """What is randomised, in order."""
        return self.run.ask("stages")

    def lines(self, shard: Shard, picture: Photograph, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        for stage, layer in enumerate(["", *shard.arguments["layers"]]):
            measures = {
                name: float("nan") if arrays is None else float(arrays[name][stage]) for name in ("correlation", "ssim")
            }
            yield {"stage": stage, "layer": layer, **measures}
