"""The largest component of every cut of a map in one pass, compiled.

Importing numba takes a third of a second and the first call compiles: import this module where it is used.
"""

from collections.abc import Callable

import numpy as np
from numba import njit


def compiled(function: Callable) -> Callable:
    """The function compiled by numba, cached beside this package or in the user's folder, if either can be written."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # neither can be written
        return njit(function)


@compiled
def largest_boxes(order: np.ndarray, starts: np.ndarray, height: int, width: int) -> np.ndarray:
    """The box of the largest 8-connected component of each cut of a map.

    The cuts are nested, so pixels are added from the last of the order to the first, each as a component that joins
    those beside it (union-find). Components only grow: the largest met so far is the largest of the cut. Of two of
    equal size, the one whose first pixel in row order comes first counts as larger.

    Args:
        order: (height width,) indices of the pixels, counted in row order, in ascending order of value.
        starts: (K,) from the smallest cut to the largest: each keeps the pixels order[start:].

    Returns:
        (K, 4) int32, (left, top, right, bottom) in inclusive pixels; (0, 0, -1, -1) for an empty cut.
    """
    stride = width + 2  # a frame of pixels that are never added spares every check at the border
    ring = np.array([-stride - 1, -stride, -stride + 1, 1, stride + 1, stride, stride - 1, -1])
    parent = np.zeros((height + 2) * stride, dtype=np.int32)  # of each pixel in its component, 0 until it is added
    records = np.zeros((len(parent), 5), dtype=np.int32)  # of components: size, first pixel, left, right, bottom
    boxes = np.empty((len(starts), 4), dtype=np.int32)
    largest, remaining = 0, len(order)
    for cut, start in enumerate(starts):
        while remaining > start:
            remaining -= 1
            row, column = order[remaining] // width, order[remaining] % width
            root = place = (row + 1) * stride + column + 1
            parent[place] = place
            records[place] = 1, order[remaining], column, column, row
            beside = 0
            for step in ring:
                before, beside = beside, parent[place + step]
                if beside > 0 and before == 0:  # consecutive neighbours touch, so the first has joined the rest
                    root = _join(parent, records, root, beside)
            size, best = records[root, 0], records[largest, 0]
            if size > best or (size == best and records[root, 1] < records[largest, 1]):
                largest = root
        _, first, left, right, bottom = records[largest]
        boxes[cut] = (left, first // width, right, bottom) if largest else (0, 0, -1, -1)
    return boxes


@compiled
def _join(parent: np.ndarray, records: np.ndarray, one: int, other: int) -> int:
    """Join the component with root `one` and that of the pixel `other`, and return their common root."""
    while parent[other] != other:
        parent[other] = parent[parent[other]]  # path halving: the next search is shorter
        other = parent[other]
    if one == other:
        return one
    if records[one, 0] < records[other, 0]:
        one, other = other, one
    parent[other] = one
    kept, joined = records[one], records[other]
    kept[0] += joined[0]
    kept[1:3] = min(kept[1], joined[1]), min(kept[2], joined[2])
    kept[3:] = max(kept[3], joined[3]), max(kept[4], joined[4])
    return one
