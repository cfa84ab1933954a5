"""The base of the players of finished experiments: photographs to choose from, and the images shown for each."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import traitlets

from perceptual_lib.book.explorer.widget import Chunk, Widget, picture_chunk
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.photographs import Photograph

PHOTOGRAPHS = 4  # so few keep a page small
LOOK = 2.0  # pixels: the blur of maps that are shown to readers, as in Fig. 7 of the book


class Player(Widget):
    """A player of a few photographs, by name, as a network sees them: step by step or side by side.

    `about` is added to the photographs and their size. `arrays` maps the first word of their keys,
    `WORD/PHOTOGRAPH/CHOICE`, to the choices and to a function from the names of photograph and choice to a chunk.
    """

    photograph = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        shown: Mapping[str, Photograph],
        classifier: Classifier,
        about: Mapping[str, Any],
        arrays: Mapping[str, tuple[Collection[str], Callable[[str, str], Chunk]]],
        **traits: Any,
    ) -> None:
        self.shown = shown
        pictures = dict(zip(shown, classifier.pixels(classifier.preprocess(shown.values())).numpy(), strict=True))
        arrays = {"picture": ([""], lambda name, _: picture_chunk(pictures[name])), **arrays}
        self.arrays = {
            f"{word}/{name}/{choice}".rstrip("/"): partial(make, name, choice)
            for name in shown
            for word, (choices, make) in arrays.items()
            for choice in choices
        }
        photographs = [
            {"name": name, "title": "" if each.target is None else classifier.class_name(each.target)}
            for name, each in shown.items()
        ]
        about = {"photographs": photographs, "size": classifier.input_size, **about}
        super().__init__(about=about, photograph=next(iter(shown)), **traits)


def visible(maps: np.ndarray, *, together: bool = False) -> np.ndarray:
    """Maps (N, H, W) scaled to [0, 1] as figures draw them: from the least value to the 99.5 % quantile.

    These are taken of each map or, if all are scaled `together`, of the last one.
    """
    of = maps[-1:] if together else maps
    low, high = of.min((1, 2), keepdims=True), np.quantile(of, 0.995, (1, 2), keepdims=True)
    return np.clip((maps - low) / np.where(high > low, high - low, 1), 0, 1)


def tiles(images: np.ndarray) -> np.ndarray:
    """Maps (N, H, W) or pictures (N, 3, H, W) as one image (rows H, columns W[, 3]), row by row, about as many rows as
    columns. One file holds them all, so that a slider need not wait.
    """
    from torchvision.utils import make_grid  # slow to import

    channels = torch.from_numpy(images).reshape(len(images), -1, *images.shape[-2:])
    sheet = make_grid(channels, nrow=math.ceil(math.sqrt(len(images))), padding=0).permute(1, 2, 0).numpy()
    return sheet if images.ndim == 4 else sheet[..., 0]


def explained_by_all(
    experiment: Experiment, table: pd.DataFrame, photographs: Sequence[Photograph] | None = None
) -> dict[str, Photograph]:
    """The first few pictures, by name, that every row of the table explained without a failure. InputError if none."""
    pictures = {picture.name: picture for picture in experiment.pictures}
    row = ["role", "method", "settings"]
    lines = table[[*row, experiment.unit, "failure"]].drop_duplicates()  # a picture may have a line for each blur
    rows = len(lines[row].drop_duplicates())
    explained = lines[experiment.unit][lines.failure == ""].value_counts()
    names = pictures if photographs is None else dict.fromkeys(photograph.name for photograph in photographs)
    found = [name for name in names if explained.get(name, 0) == rows > 0][:PHOTOGRAPHS]
    if not found:
        raise InputError(f"there is no {experiment.unit} that every row of {experiment.name} explained.")
    return {name: pictures[name] for name in found}
