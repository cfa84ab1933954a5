"""Where the image's places are in what a layer computes: in a map, channels first or last, or in a row of tokens."""

import math
from collections.abc import Collection, Iterable

from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns."""

PREFIX = 16  # tokens of no place, at most: class, distillation, registers; five are many, and more may be a coincidence


def find_grid(shape: tuple[int, ...], images: Tensor, maps: Collection[Grid] = ()) -> Grid | None:
    """The grid of an activation of this shape for one image, or None where it has none.

    It is a map where its sides are as the image's. It is tokens (n + h w, channels), row by row, n of no place first,
    where h x w is one of these maps, as the patch embedding's convolution makes it; or (h w, channels) where h x w is
    what merging patches by twos leaves of one (Swin).
    """
    height, width = images.shape[2:]
    for rows, columns in [shape[1:], shape[:2]] if len(shape) == 3 else []:  # (C, h, w), or (h, w, C) as in ConvNeXt
        if 1 < rows <= height and abs(rows * width - columns * height) < max(height, width):
            return rows, columns
    if len(shape) != 2 or shape[1] == 1:  # (C, 1) is what pooling leaves of tokens
        return None
    merged = [(math.ceil(rows / 2**k), math.ceil(columns / 2**k)) for rows, columns in maps for k in range(1, 6)]
    fitting = [grid for grid in maps if 0 <= shape[0] - math.prod(grid) <= PREFIX]
    fitting += [grid for grid in merged if min(grid) > 1 and math.prod(grid) == shape[0]]
    return max(fitting, key=math.prod, default=None)


def channels_first(value: Tensor, grid: Grid) -> Tensor:
    """(B, channels, h, w) of a map or of tokens (B, ...)."""
    if value.ndim == 4 and value.shape[2:] == grid:
        return value
    if value.ndim == 3:
        value = value[:, -math.prod(grid) :].unflatten(1, grid)
    return value.movedim(-1, 1)


def written(grids: Iterable[Grid]) -> str:
    """As a sentence says them."""
    return ", ".join(f"{rows} x {columns}" for rows, columns in sorted(grids))
