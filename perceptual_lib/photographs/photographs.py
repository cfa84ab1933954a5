"""Photographs: a picture file, its ImageNet class and the boxes around the objects of that class.

Boxes refer to the pixels as stored. A few of ImageNet's pictures carry an EXIF orientation that neither their
boxes nor the networks' training followed: a photograph with boxes opens as stored, any other picture upright.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.networks.pictures import open_picture, opening
from perceptual_lib.photographs.boxes import Box, box_array, box_mask


@dataclass(frozen=True)
class Photograph:
    """A picture file, which can be given wherever a path can, and what is known about it."""

    name: str  #: its identity in tables, the file's stem
    path: Path
    target: int | None = None  #: ImageNet class index in 0..999, None when unknown
    boxes: tuple[Box, ...] = ()
    """Around every object of that class, in pixels of the frame `size`; see above, and `box_array`."""
    size: tuple[int, int] | None = None  #: (width, height) as stored; required with boxes (else InputError)

    def __post_init__(self) -> None:
        if self.boxes and self.size is None:
            raise InputError(f"{self.name} has boxes but no size: give the (width, height) they refer to.")
        if self.boxes:
            box_array(self.boxes, self.size, self.name)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def upright(self) -> bool:
        """Whether it is opened upright, and not as stored."""
        return not self.boxes

    def open(self) -> Image.Image:
        """The picture in RGB; raises InputError as `open_picture` does."""
        return open_picture(self)

    def scaled_boxes(self, height: int, width: int) -> list[Box]:
        """The boxes, as floats, in the frame of the picture warped to height x width; empty without boxes.

        Edges are scaled, and the right edge of an inclusive box is at right + 1: so a box that fills the picture also
        fills the warped one.
        """
        if not self.boxes:
            return []
        x, y = width / self.size[0], height / self.size[1]
        return [(lt * x, tp * y, (rt + 1) * x - 1, (bt + 1) * y - 1) for lt, tp, rt, bt in self.boxes]

    def box_mask(self, height: int, width: int) -> np.ndarray:
        """(height, width) bool: the pixels of the warped picture whose centre lies inside a box."""
        return box_mask(self.scaled_boxes(height, width), height, width)


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is taken: cat, cat (2)."""
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(each for each in names if each not in taken)


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header, before any EXIF orientation."""
    with opening(path) as image:
        return image.size
