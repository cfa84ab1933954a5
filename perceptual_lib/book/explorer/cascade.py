"""The player of sanity checks (Sec. 4.5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import traitlets

from perceptual_lib.book.explorer.player import LOOK, Player, explained_by_all, tiles, visible
from perceptual_lib.book.explorer.widget import picture_chunk
from perceptual_lib.core.networks import Classifier
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.games import Randomization
from perceptual_lib.evaluation.randomization.table import randomization_curves
from perceptual_lib.photographs.photographs import Photograph


class CascadePlayer(Player):
    """The sanity check (Sec. 4.5): maps while the network forgets, layer after layer, with the first random seed.

    Args:
        experiment: finished.
        classifier: the trained network.
        table: of the run whose mean correlation is drawn, such as a published one; None for the experiment's own. Of
            another network's stages there is nothing to draw.
        photographs: those to choose from; None for the experiment's. Of them the first that every method explained.

    Raises:
        InputError: there is none.

    Attributes:
        method: its name.
        stage: how many layers are forgotten.
    """

    source = "cascade"
    method = traitlets.Unicode().tag(sync=True)
    stage = traitlets.Int(1).tag(sync=True)

    def __init__(
        self,
        experiment: Randomization,
        classifier: Classifier,
        table: pd.DataFrame | None = None,
        photographs: Sequence[Photograph] | None = None,
    ) -> None:
        own = experiment.table[experiment.table.seed == 0]
        methods = list(own.method.unique())
        stages = ["trained", *own[own.stage > 0].sort_values("stage").layer.unique()]
        shown = explained_by_all(experiment, own, photographs)
        self.experiment, self.maps = experiment, {}
        lines = own.sort_values("stage").groupby(["photograph", "method"])
        about = {
            "methods": methods,
            "stages": stages,
            "measures": {
                name: {
                    method: lines.get_group((name, method))[["correlation", "ssim"]].to_dict("list")
                    for method in methods
                }
                for name in shown
            },
            "run": "this page's run" if table is None else "the published run",
            "means": {
                method: {
                    "value": curve.value.tolist(),
                    "low": curve.low.tolist(),
                    "high": curve.high.tolist(),
                    "n": curve.n,
                }
                for method, (names, curve) in randomization_curves(experiment.table if table is None else table).items()
                if names == stages
            },
        }
        maps = {"maps": (methods, lambda name, method: picture_chunk(tiles(visible(self.stages(name, method)))))}
        super().__init__(shown, classifier, about, maps, method=methods[0])

    def stages(self, name: str, method: str) -> np.ndarray:
        """The maps (stages, H, W), blurred to be looked at."""
        if method not in self.maps:
            maps = self.experiment.maps(method, seed=0)
            self.maps[method] = {each: maps[each] for each in self.shown}
        return gaussian_blur(torch.from_numpy(self.maps[method][name]), LOOK).numpy()
