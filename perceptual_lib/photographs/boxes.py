"""Boxes around objects: (left, top, right, bottom) in pixels counted from 0.

Both ends are inside the box, as in ImageNet's annotations: a box that fills a picture of width 512 goes from 0 to 511
and is right - left + 1 = 512 wide.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from perceptual_lib.core.errors import InputError

Box = tuple[float, float, float, float]


def box_array(boxes: Sequence[Box]) -> np.ndarray:
    """Boxes as (M, 4) float64; raises InputError where there is none, or one is not of four numbers."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4 or len(array) == 0:
        raise InputError("there must be at least one box (left, top, right, bottom).")
    return array


def scale_boxes(boxes: Iterable[Box], size: tuple[int, int], height: int, width: int) -> list[Box]:
    """Boxes of a picture of `size` (width, height) in the frame of that picture warped to height x width, as floats.

    What is scaled are edges, and the right edge of an inclusive box is at right + 1: a box that fills the picture
    fills the warped one.
    """
    x, y = width / size[0], height / size[1]
    return [(lt * x, tp * y, (rt + 1) * x - 1, (bt + 1) * y - 1) for lt, tp, rt, bt in boxes]


def box_mask(boxes: Iterable[Box], height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels whose centre lies inside one of the boxes, which are of that frame."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    mask = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        mask |= (top <= rows) & (rows < bottom + 1) & (left <= columns) & (columns < right + 1)
    return mask
