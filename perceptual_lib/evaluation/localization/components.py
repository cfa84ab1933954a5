"""The largest component of every cut of a map in one pass, compiled.

Importing numba takes a third of a second and the first call compiles: import this module where it is used.
"""

from collections.abc import Callable

import numpy as np
from numba import njit


def compiled(function: Callable) -> Callable:
    """By numba, which keeps what it makes where this package lies or in the user's folder, if one can be written."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # neither can
        return njit(function)


@compiled
def largest_boxes(order: np.ndarray, starts: np.ndarray, height: int, width: int) -> np.ndarray:
    """The box of the largest 8-connected component of each cut of a map.

    The cuts are nested, so pixels are added from the last of the order to the first, each to the component beside it,
    where it may join several into one (union-find). Components only grow: the largest met so far is the largest of
    the cut. Of two of a size, the one whose first pixel in row order comes first counts as larger.

    Args:
        order: (height width,) the pixels as counted in row order, in ascending order of value.
        starts: (K,) from the smallest cut to the largest: each keeps the pixels order[start:].

    Returns:
        (K, 4) int32, (left, top, right, bottom) in inclusive pixels; (0, 0, -1, -1) for an empty cut.
    """
    stride = width + 2  # a frame of pixels that are never added spares every check at the border
    ring = np.array([-stride - 1, -stride, -stride + 1, 1, stride + 1, stride, stride - 1, -1])
    component = np.zeros((height + 2) * stride, dtype=np.int32)  # of each pixel, 0 until it is added
    parent = np.arange(height * width + 1, dtype=np.int32)  # of each component
    records = np.zeros((height * width + 1, 5), dtype=np.int32)  # size, first pixel, left, right, bottom
    boxes = np.empty((len(starts), 4), dtype=np.int32)
    count = largest = 0
    remaining = len(order)
    for cut, start in enumerate(starts):
        while remaining > start:
            remaining -= 1
            pixel = order[remaining]
            row = pixel // width
            column = pixel - row * width
            place = (row + 1) * stride + column + 1
            root = _join_around(component, parent, records, place, ring)
            if root == 0:
                count += 1
                root = count
                records[root, 1:] = pixel, column, column, row
            component[place] = root
            _grow(records, root, 1, pixel, column, column, row)
            if _larger(records, root, largest):
                largest = root
        _, first, left, right, bottom = records[largest]
        boxes[cut] = (left, first // width, right, bottom) if largest else (0, 0, -1, -1)
    return boxes


@compiled
def _join_around(component: np.ndarray, parent: np.ndarray, records: np.ndarray, place: int, ring: np.ndarray) -> int:
    """The root of the components around a place, made one; 0 where there is none."""
    root = 0
    beside = 0
    for step in ring:
        before, beside = beside, component[place + step]
        if beside > 0 and before == 0:  # consecutive neighbours touch: one speaks for those after it
            root = _join(parent, records, root, _root(parent, beside))
    return root


@compiled
def _root(parent: np.ndarray, component: int) -> int:
    while parent[component] != component:
        parent[component] = parent[parent[component]]  # halves the way for the next time
        component = parent[component]
    return component


@compiled
def _join(parent: np.ndarray, records: np.ndarray, one: int, other: int) -> int:
    """The root of two roots made one; 0 stands for no component."""
    if one == other or one == 0:
        return other
    if records[one, 0] < records[other, 0]:
        one, other = other, one
    parent[other] = one
    size, first, left, right, bottom = records[other]
    _grow(records, one, size, first, left, right, bottom)
    return one


@compiled
def _grow(records: np.ndarray, root: int, size: int, first: int, left: int, right: int, bottom: int) -> None:
    record = records[root]
    record[0] += size
    record[1] = min(record[1], first)
    record[2] = min(record[2], left)
    record[3] = max(record[3], right)
    record[4] = max(record[4], bottom)


@compiled
def _larger(records: np.ndarray, one: int, other: int) -> bool:
    size, first = records[one, 0], records[one, 1]
    return size > records[other, 0] or (size == records[other, 0] and first < records[other, 1])
