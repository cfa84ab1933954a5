"""The player of sanity checks (Sec. 4.5)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch
import traitlets

from perceptual_lib.book.explorer.player import LOOK, Player, explained_by_all, tiles, visible
from perceptual_lib.book.explorer.widget import Chunk, picture_chunk
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.randomization.experiment import Randomization
from perceptual_lib.evaluation.randomization.table import randomization_curves
from perceptual_lib.networks.classifier import Classifier
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
        own = experiment.table[experiment.table.seed == 0].sort_values("stage", kind="stable")
        shown = explained_by_all(experiment, own, photographs)
        methods = list(experiment.table.method.unique())
        stages = ["trained", *own[own.stage > 0].layer.unique()]
        lines = own.groupby(["photograph", "method"])[["correlation", "ssim"]]
        curves = randomization_curves(experiment.table if table is None else table)
        means = {
            method: {name: np.array(getattr(curve, name)).tolist() for name in ("value", "low", "high", "n")}
            for method, (names, curve) in curves.items()
            if names == stages
        }
        about = {
            "methods": methods,
            "stages": stages,
            "measures": {
                name: {method: lines.get_group((name, method)).to_dict("list") for method in methods} for name in shown
            },
            "run": "this page's run" if table is None else "the published run",
            "means": means,
        }
        maps = cache(lambda method: experiment.maps(method, seed=0))

        def sheet(name: str, method: str) -> Chunk:
            blurred = gaussian_blur(torch.from_numpy(maps(method)[name]), LOOK)
            return picture_chunk(tiles(visible(blurred.numpy())))

        super().__init__(shown, classifier, about, {"maps": (methods, sheet)}, method=methods[0])
