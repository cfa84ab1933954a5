"""What the players of finished experiments have in common: photographs to choose from, and what is drawn of each."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import traitlets

from perceptual_lib.book.explorer.widget import Chunk, Widget, picture_chunk
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.photographs import Photograph

PHOTOGRAPHS = 4  # a page shall stay light
LOOK = 2.0  # pixels: the blur of maps that are looked at, as in Fig. 7 of the book


class Player(Widget):
    """Something of each of a few photographs, step by step or side by side.

    Args:
        shown: the photographs by name.
        classifier: the network that sees them.
        about: what the browser is told, beside the photographs and their size.
        arrays: by the first word of their keys, `WORD/PHOTOGRAPH/CHOICE`: the choices, and what makes a chunk of the
            names of photograph and choice.
        traits: what is chosen at first, beside the first photograph.

    Attributes:
        photograph: its name.
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
        pixels = classifier.pixels(classifier.preprocess(shown.values())).numpy()
        pictures = dict(zip(shown, pixels, strict=True))
        self.arrays = {"picture": ([""], lambda name, _: picture_chunk(pictures[name])), **arrays}
        classes = {
            name: "" if photograph.target is None else classifier.class_name(photograph.target)
            for name, photograph in shown.items()
        }
        common = {
            "photographs": [{"name": name, "title": title} for name, title in classes.items()],
            "size": classifier.input_size,
        }
        super().__init__(about={**common, **about}, photograph=next(iter(shown)), **traits)

    def keys_at_hand(self) -> Iterator[str]:
        for name in self.shown:
            for word, (choices, _) in self.arrays.items():
                yield from (f"{word}/{name}/{choice}".rstrip("/") for choice in choices)

    def chunk(self, key: str) -> Chunk:
        word, name, choice = (key.split("/") + ["", ""])[:3]
        choices, make = self.arrays.get(word, ((), None))
        if make is None or name not in self.shown or choice not in choices:
            raise InputError(f"there is no {key}.")
        return make(name, choice)


def visible(maps: np.ndarray, *, together: bool = False) -> np.ndarray:
    """Maps (N, H, W) scaled to [0, 1] as figures draw them: from the least value to the 99.5 % quantile.

    Args:
        maps: as they come.
        together: whether all have the range of the last one; otherwise each has its own.
    """
    of = maps[-1:] if together else maps
    low, high = of.min((1, 2), keepdims=True), np.quantile(of, 0.995, (1, 2), keepdims=True)
    return np.clip((maps - low) / np.where(high > low, high - low, 1), 0, 1)


def tiles(images: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) or maps (N, H, W) as one picture (rows H, columns W, 3), nearly square, row by row.

    One file holds them all, and a slider has nothing to wait for.
    """
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, -1)
    count, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    padded = np.pad(images, ((0, rows * columns - count), (0, 0), (0, 0), (0, 0)))
    return padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def explained_by_all(
    experiment: Experiment, table: pd.DataFrame, photographs: Sequence[Photograph] | None
) -> dict[str, Photograph]:
    """By name, the first photographs that every row of the table has without a failure."""
    pictures = {picture.name: picture for picture in experiment.pictures}
    rows = table.assign(row=table.role + table.method + table.settings)
    explained = rows[rows.failure == ""].groupby("photograph").row.nunique()
    names = pictures if photographs is None else dict.fromkeys(photograph.name for photograph in photographs)
    found = [name for name in names if explained.get(name, 0) == rows.row.nunique()][:PHOTOGRAPHS]
    if not found:
        raise InputError(f"there is no photograph that every row of {experiment.name} explained.")
    return {name: pictures[name] for name in found}
