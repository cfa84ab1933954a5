"""The triangle of Fig. 5, to be touched (Sec. 4.2)."""

import numpy as np
import pandas as pd
import torch
import traitlets

from perceptual_lib.book.explorer.player import Player, explained_by_all, tiles, visible
from perceptual_lib.book.explorer.widget import picture_chunk
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.networks import Classifier
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.games import Localization
from perceptual_lib.evaluation.tables import layer_range
from perceptual_lib.evaluation.tables_face import trials


class SensitivityMap(Player):
    """The triangle of Fig. 5: the map of each range of layers, and how well it localizes (Sec. 4.2).

    Args:
        experiment: finished, of a profile with ranges.
        classifier: the network.

    Raises:
        InputError: no ranges, or no photograph that every range explained.

    Attributes:
        layers: the first and the last that are held, "0-25".
    """

    source = "sensitivity"
    layers = traitlets.Unicode().tag(sync=True)

    def __init__(self, experiment: Localization, classifier: Classifier) -> None:
        tried = experiment.table[experiment.table.method == "perceptual"]
        tried = tried[tried.photograph.isin(tried[tried.role == "range"].photograph)]
        if not {"range", "table"} <= set(tried.role):
            raise InputError(
                f"profile {experiment.profile.name} tries no ranges of layers: set localization.ranges, and let its "
                "methods be all or have perceptual among them."
            )
        self.experiment, self.maps = experiment, {}
        shown = explained_by_all(experiment, tried, None)
        own = tried[tried.role == "table"].settings.iloc[0]
        ranges = tried[tried.role == "range"].settings.unique()
        self.rows = {_layers(own): ("table", own)} | {_layers(each): ("range", each) for each in ranges}
        about = {
            "boxes": {name: photograph.scaled_boxes(*classifier.input_size) for name, photograph in shown.items()},
            "sigma": experiment.profile.sigma,
            "own": _layers(own),
            "ranges": _ranges(tried),
        }
        maps = {"map": (self.rows, lambda *names: picture_chunk(tiles(visible(self.map(*names)[None]))))}
        super().__init__(shown, classifier, about, maps, layers=_layers(own))

    def map(self, name: str, layers: str) -> np.ndarray:
        """(H, W), blurred as in the figures."""
        if layers not in self.maps:
            role, settings = self.rows[layers]
            self.maps[layers] = self.experiment.maps("perceptual", role=role, settings=settings)
        return gaussian_blur(torch.from_numpy(self.maps[layers][name]), self.experiment.profile.sigma).numpy()


def _layers(settings: str) -> str:
    """What a row's settings (JSON) hold: "0-25"."""
    first, last = layer_range(settings)
    return f"{first}-{last}"


def _ranges(tried: pd.DataFrame) -> list[dict[str, object]]:
    """The ranges that were tried and the profile's own: layers, first, last, n and the errors `value` and `best`."""
    errors = trials(tried, "value").assign(best=trials(tried, "best").error).rename(columns={"error": "value"})
    errors = errors[errors.role != "weight"].sort_values(["first", "last"])
    errors["layers"] = [f"{first}-{last}" for first, last in zip(errors["first"], errors["last"], strict=True)]
    lines = errors.sort_values("role", kind="stable")  # "range" before "table"
    return lines.drop_duplicates("layers")[["layers", "role", "first", "last", "n", "value", "best"]].to_dict("records")
