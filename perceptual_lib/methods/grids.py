"""Where a layer's output has the image's places: in a map, channels first or last, or in a row of tokens."""

import math
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.activations import function_name

Grid = tuple[int, int]
"""Rows and columns."""

PREFIX = 16  # the most tokens without a place: class, distillation, registers. Five are many; more may be a coincidence


def find_grid(shape: tuple[int, ...], images: Tensor, maps: Collection[Grid] = ()) -> Grid | None:
    """The grid of an activation of this shape for one image, or None where it has none.

    It is a map if its sides have the image's proportions. It is tokens (n + h w, channels), n of them without a place
    and the others row by row, if h x w is one of `maps`, such as the patch embedding's convolution returns; or (h w,
    channels) if h x w is what merging patches two by two leaves of one of `maps` (Swin).
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


def batch_first(value: Tensor, batch: int) -> Tensor:
    """Tokens of a single image with the sequence first, (n, 1, channels) as in CLIP, as (1, n, channels); all else as
    it is."""
    return value.transpose(0, 1) if batch == 1 and value.ndim == 3 and len(value) > 1 == value.shape[1] else value


class Joins(TorchFunctionMode):
    """Context for a pass of a frozen network, in which is noted where the image's tokens lie, wherever they are joined
    with others that do not depend on it, such as a class token: `places[n]` are their numbers among n."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.places: dict[int, list[int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if function_name(func) in ("cat", "concat", "concatenate") and output.ndim == 3:
            given = args[0] if args else kwargs["tensors"]
            parts = [batch_first(each, self.batch) for each in given if each.ndim == 3]  # an empty one may begin a list
            starts = [sum(part.shape[1] for part in parts[:number]) for number in range(len(parts))]
            if starts[-1] + parts[-1].shape[1] == (count := batch_first(output, self.batch).shape[1]):
                found = [
                    start + place
                    for start, part in zip(starts, parts, strict=True)
                    for place in (self.places.get(part.shape[1], range(part.shape[1])) if part.requires_grad else ())
                ]
                # Others may be joined later to as many: what joins the image's alone says nothing, and of two that do
                # not agree neither is believed.
                if count not in self.places:
                    self.places[count] = found
                elif found != self.places[count] and not all(part.requires_grad for part in parts):
                    self.places[count] = [] if len(self.places[count]) < count else found
        return output


def channels_first(value: Tensor, grid: Grid, places: Collection[int] = ()) -> Tensor:
    """A map or tokens (B, ...) as (B, channels, h, w). Tokens are those at these places if they are as many as the grid
    has, otherwise the last ones."""
    if value.ndim == 4 and value.shape[2:] == grid:
        return value
    if value.ndim == 3:
        count = math.prod(grid)
        value = (value[:, list(places)] if len(places) == count else value[:, -count:]).unflatten(1, grid)
    return value.movedim(-1, 1)


def written(grids: Iterable[Grid]) -> str:
    """The grids as a message names them."""
    return ", ".join(f"{rows} x {columns}" for rows, columns in sorted(grids))
