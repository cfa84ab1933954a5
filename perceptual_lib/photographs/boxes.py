"""Boxes around objects, (left, top, right, bottom) in pixels counted from 0: as arrays, as masks, as questions.

Both ends are inside the box, as in ImageNet's annotations: a box that fills a picture of width 512 goes from 0 to 511
and is right - left + 1 = 512 wide.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from perceptual_lib.core.errors import InputError

Box = tuple[float, float, float, float]


class Question(NamedTuple):
    """Where is this class in a picture of several objects? (The pointing game, Sec. 4.4.)"""

    target: int  # index of the class
    boxes: tuple[Box, ...]  # around all its objects, in pixels of the picture
    hard: bool  # whether it belongs to the difficult subset


def box_array(
    boxes: Sequence[Box], size: tuple[float, float] = (np.inf, np.inf), of: str = "the picture"
) -> np.ndarray:
    """Boxes as (M, 4) float64. Raises InputError, which names what they are `of`, if there is none, or one is not of
    four numbers, not finite, without an area, or wholly outside a picture of `size` (width, height)."""
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):  # words, or boxes of unequal lengths
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != 4 or len(array) == 0:
        raise InputError(f"{of} must have at least one box (left, top, right, bottom), not {boxes}.")
    low, high = array[:, :2], array[:, 2:]
    # A box scaled down can be narrower than a pixel: its right is then less than its left.
    fits = np.isfinite(array).all(1) & ((high - low > -1) & (low < size) & (high > -1)).all(1)
    if not fits.all():
        raise InputError(
            f"{of} has the box {tuple(array[fits.argmin()].tolist())}, counted from 0: a box must be finite, reach "
            "into the picture, and have right above left - 1 and bottom above top - 1, as both are inside it."
        )
    return array


def box_mask(boxes: Iterable[Box], height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels whose centre lies inside one of the boxes, given in that frame."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    mask = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        mask |= (top <= rows) & (rows < bottom + 1) & (left <= columns) & (columns < right + 1)
    return mask


def is_small(boxes: Iterable[Box], size: tuple[int, int]) -> bool:
    """Whether boxes cover less than a quarter of a picture of `size` (width, height) (Zhang et al. 2016)."""
    return bool(box_mask(boxes, height=size[1], width=size[0]).mean() < 1 / 4)
