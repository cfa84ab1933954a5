"""Where a layer's output has the image's places: in a map, channels first or last, or in a row of tokens."""

import math
from collections.abc import Collection, Iterable

from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns."""

PREFIX = 16  # the most tokens without a place: class, distillation, registers. Five are many; more may be a coincidence


def find_grid(shape: tuple[int, ...], images: Tensor, maps: Collection[Grid] = ()) -> Grid | None:
    """The grid of an activation of this shape for one image, or None where it has none.

    It is a map if its sides have the image's proportions. It is tokens (n + h w, channels), first n without a place and
    then row by row, if h x w is one of `maps`, such as the patch embedding's convolution returns; or (h w, channels) if
    h x w is what merging patches two by two leaves of one of `maps` (Swin).
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
    """A map or tokens (B, ...) as (B, channels, h, w)."""
    if value.ndim == 4 and value.shape[2:] == grid:
        return value
    if value.ndim == 3:
        value = value[:, -math.prod(grid) :].unflatten(1, grid)
    return value.movedim(-1, 1)


def written(grids: Iterable[Grid]) -> str:
    """The grids as a message names them."""
    return ", ".join(f"{rows} x {columns}" for rows, columns in sorted(grids))
