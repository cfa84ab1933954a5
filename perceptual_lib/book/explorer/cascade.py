"""The player of sanity checks (Sec. 4.5)."""

from functools import cache

import numpy as np
import torch
import traitlets

from perceptual_lib.book.explorer.player import LOOK, Player, explained_by_all, tiles, visible
from perceptual_lib.book.explorer.widget import Chunk, module, picture_chunk
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.publishing import Results
from perceptual_lib.evaluation.randomization.experiment import Randomization
from perceptual_lib.evaluation.randomization.table import randomization_curves
from perceptual_lib.networks.classifier import Classifier


class CascadePlayer(Player):
    """The sanity check (Sec. 4.5): maps while the network forgets layer after layer, with the first random seed.

    The mean correlation in the chart is that of another `run`, such as a published one; by default the experiment's.
    It is left out if the run has other stages, as with another network. The player offers the first photographs that
    every method explained; if there is none, it raises InputError. The reader chooses the `method` and the `stage`, how
    many layers are forgotten.
    """

    _esm = module("cascade")
    method = traitlets.Unicode().tag(sync=True)
    stage = traitlets.Int(1).tag(sync=True)

    def __init__(self, experiment: Randomization, classifier: Classifier, run: Results | None = None) -> None:
        own = experiment.table[experiment.table.seed == 0].sort_values("stage", kind="stable")
        shown = explained_by_all(experiment, own)
        methods = list(experiment.table.method.unique())
        stages = ["trained", *own[own.stage > 0].layer.unique()]
        lines = own.groupby(["photograph", "method"])[["correlation", "ssim"]]
        curves = randomization_curves(experiment.table if run is None else run.table)
        about = {
            "methods": methods,
            "stages": stages,
            "measures": {
                name: {method: lines.get_group((name, method)).to_dict("list") for method in methods} for name in shown
            },
            "run": "this book's own run" if run is None else run.title,
            "means": {
                method: {name: np.asarray(values).tolist() for name, values in vars(curve).items()}
                for method, (names, curve) in curves.items()
                if names == stages
            },
        }
        maps = cache(lambda method: experiment.maps(method, shown, seed=0))

        def sheet(name: str, method: str) -> Chunk:
            blurred = gaussian_blur(torch.from_numpy(maps(method)[name]), LOOK)
            return picture_chunk(tiles(visible(blurred.numpy())))

        super().__init__(shown, classifier, about, {"maps": (methods, sheet)}, method=methods[0])
