"""The player of insertion and deletion (Sec. 4.3)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import traitlets

from perceptual_lib.book.explorer.player import Player, explained_by_all
from perceptual_lib.book.explorer.widget import array_chunk, module, picture_chunk
from perceptual_lib.evaluation.insertion_deletion.experiment import InsertionDeletion
from perceptual_lib.evaluation.insertion_deletion.protocol import DECIMALS, METRICS, SIGMA, auc, impulse_blur, ranks
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.photographs import Photograph


class InsertionDeletionPlayer(Player):
    """The insertion and deletion games (Sec. 4.3), two maps side by side, of a finished experiment and its network.

    It offers the first of the photographs (None for the experiment's) for which all rows have a map; if there is none,
    it raises InputError. The browser makes the pictures from the step at which each pixel changes.

    The reader chooses the `game`; `left` and `right`, rows of Table 2 such as "perceptual, sigma 5"; and `step`, how
    many times pixels have changed.
    """

    _esm = module("games")
    left = traitlets.Unicode().tag(sync=True)
    right = traitlets.Unicode().tag(sync=True)
    game = traitlets.Enum(["deletion", "insertion"], "deletion").tag(sync=True)
    step = traitlets.Int(3).tag(sync=True)

    def __init__(
        self, experiment: InsertionDeletion, classifier: Classifier, photographs: Sequence[Photograph] | None = None
    ) -> None:
        table = experiment.table[experiment.table.role == "table"]
        keys = table[["method", "sigma"]].drop_duplicates().itertuples(index=False, name=None)
        self.rows = {f"{method}, sigma {sigma:g}": (method, sigma) for method, sigma in keys}
        shown = explained_by_all(experiment, table, photographs)
        self.experiment, self.maps = experiment, cache(lambda method: experiment.maps(method, shown))
        inputs = classifier.preprocess(shown.values())
        blurred = dict(zip(shown, classifier.pixels(impulse_blur(inputs, SIGMA)).numpy(), strict=True))
        lines = table.set_index(["photograph", "method", "sigma"])
        about = {
            "rows": list(self.rows),
            "grey": (255 * classifier.pixels(torch.zeros_like(inputs[:1]))[0, 0, 0]).tolist(),
            "pixels": experiment.section.step,
            "curves": {
                name: {
                    row: {game: _curve(lines.at[(name, *key), game]) for game in METRICS}
                    for row, key in self.rows.items()
                }
                for name in shown
            },
        }
        methods = {row: method for row, (method, _) in self.rows.items()}
        left = next((row for row in methods if methods[row] == "perceptual"), next(iter(methods)))
        right = next((row for row in methods if methods[row] != methods[left]), left)
        arrays = {
            "blurred": ([""], lambda name, _: picture_chunk(blurred[name])),
            "steps": (self.rows, lambda name, row: array_chunk(self.steps(name, row))),
        }
        super().__init__(shown, classifier, about, arrays, left=left, right=right)

    def panels(self) -> list[np.ndarray]:
        """The photograph, and what deletion by either map leaves of it at the step, the rest in grey."""
        picture, grey = super().panels()[0], np.array(self.about["grey"]) / 255
        steps = [self.steps(self.photograph, row) for row in (self.left, self.right)]
        return [picture, *(np.where(each[..., None] <= self.step, grey, picture) for each in steps)]

    def steps(self, name: str, row: str) -> np.ndarray:
        """(H, W): the step from 1 on at which each pixel changes, in the game's own order."""
        method, sigma = self.rows[row]
        before = ranks(impulse_blur(torch.from_numpy(self.maps(method)[name]), sigma))
        return 1 + before.numpy() // self.experiment.section.step


def _curve(probabilities: np.ndarray) -> dict[str, object]:
    """The values of a curve (n,) of the table, and the area under it."""
    values = probabilities.astype(np.float64).round(DECIMALS)
    return {"values": values.tolist(), "area": float(auc(values))}
