"""The pointing game (paper Sec. 4.4): does the most salient pixel lie on an object of the class?

The rules are those of TorchRay's implementation, which the paper uses. The question is a pair of a picture and a class
in it. The map of the class is blurred at the size of the network's input, resized to the picture's own size, and its
maximum is a hit when it is less than 15 pixels from the boxes around the class's objects, all of them together. The
accuracy is a mean over classes, of all pairs or of the difficult ones: small objects, with another class present.

It is played on scenes: VOC07's pictures, or mosaics of photographs.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.saliency import check_blur, gaussian_blur
from perceptual_lib.photographs.boxes import Box, box_array

TOLERANCE = 15  # pixels of the picture: a smaller distance is a hit


def maxima(maps: Tensor, size: tuple[int, int], sigmas: Sequence[float] = (0.0,), smooth: float = 0.0) -> np.ndarray:
    """(N, S, 2) int64, column and row of the most salient pixel of each map; of equals the first in row order.

    Args:
        maps: (N, h, w) floating point, of N classes or pictures of one size; InputError for others, or not finite.
        size: (height, width) of the picture, not 0; the maps are resized to it bilinearly, after the blur.
        sigmas: S >= 1 standard deviations of a Gaussian in pixels of the maps, at least 0 (else InputError).
        smooth: standard deviation of another Gaussian, after the maps are resized, as a share of the picture's longer
            side. As in TorchRay, borders are replicated, and the kernel ends at 4 standard deviations.
    """
    check_blur(maps, 0.0)
    if maps.ndim != 3 or 0 in maps.shape or not maps.isfinite().all():
        raise InputError(f"maps must have the shape (N, h, w) and finite values; these are {tuple(maps.shape)}.")
    if len(sigmas) == 0 or min(size) < 1:
        raise InputError(f"give a sigma or more, and the picture's (height, width); not {list(sigmas)} and {size}.")
    found = []
    for sigma in sigmas:
        blurred = gaussian_blur(maps, sigma)
        if blurred.shape[1:] != size:
            blurred = F.interpolate(blurred[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        if smooth:
            sigma, large = smooth * max(size), blurred.cpu().numpy()
            large = gaussian_filter(large, sigma, mode="nearest", radius=math.ceil(4 * sigma), axes=(1, 2))
            blurred = torch.from_numpy(large)
        found.append(blurred.flatten(1).argmax(1))
    places = torch.stack(found, 1).cpu().numpy()
    return np.stack([places % size[1], places // size[1]], -1)


def distances(points: ArrayLike, boxes: Sequence[Box]) -> np.ndarray:
    """Distances (...) float64, in pixels, from points (..., 2), as from `maxima`, to the nearest pixel inside one of
    the boxes; 0 inside. Raises InputError as `box_array`."""
    edges = box_array(boxes)
    points = np.asarray(points)[..., None, :]  # (..., 1, 2) beside (M, 2)
    outside = np.maximum(edges[:, :2] - points, points - edges[:, 2:]).clip(min=0)
    return np.sqrt((outside**2).sum(-1).min(-1))


def count_hits(
    hits: ArrayLike, groups: Sequence[str | int], classes: Sequence[int], among: Sequence[int] | None = None
) -> np.ndarray:
    """Hits and pairs of each class in each group, (G, ..., K, 2) float64: what `bootstrap` takes, with `class_mean`.

    Args:
        hits: (P, ...) bool, a row for each pair, with, for example, a column for each blur; nan where there is no map,
            which makes `bootstrap` leave out the pair's whole group.
        groups, classes: (P,) the group with which each pair is drawn, such as the name of its picture, as pairs of one
            picture are not independent draws; and its class. InputError for no pair, or lengths that differ.
        among: the K classes that the mean goes over, ascending, with all of the pairs' (else InputError); None for
            those that occur. One without a pair counts as missed in every group: its accuracy is 0, as in TorchRay.
    """
    hits, classes = np.asarray(hits, dtype=np.float64), np.asarray(classes)
    if not 0 < len(hits) == len(groups) == len(classes):
        raise InputError(f"{len(hits)} hits, {len(groups)} groups, {len(classes)} classes; give one of each per pair.")
    among = np.unique(classes if among is None else among)
    if not np.isin(classes, among).all():
        raise InputError(f"class {np.setdiff1d(classes, among)[0]} is not among those that the mean goes over.")
    members, rows = np.unique(groups, return_inverse=True)
    columns = np.searchsorted(among, classes)
    result = np.zeros((2, len(members), len(among), *hits.shape[1:]))
    np.add.at(result[0], (rows, columns), hits)
    np.add.at(result[1], (rows, columns), 1)
    result[1][:, ~np.isin(among, classes)] = 1
    return np.moveaxis(result, (2, 0), (-2, -1))


def class_mean(means: np.ndarray) -> np.ndarray:
    """The statistic for `bootstrap`: (R, ...) in [0, 1], the mean over classes of the share of hits.

    Takes (R, ..., K, 2), means or sums over the rows of `count_hits`. A class that a resample happens to lack is left
    out there: as 0 it would pull the interval down, and most of all where classes are rare.
    """
    hits, pairs = means[..., 0], means[..., 1]
    shares = np.divide(hits, pairs, out=np.zeros_like(hits), where=pairs > 0)
    return shares.sum(-1) / (pairs > 0).sum(-1)


def compute(
    *_: Any,
    needed: dict[str, np.ndarray],
    sigmas: Sequence[float],
    size: Sequence[tuple[int, int]],
    boxes: Sequence[Sequence[Sequence[Box]]],
    smooth: float = 0.0,
) -> dict[str, np.ndarray]:
    """What a shard computes from maps (B, Q, h, w): the distance (B, Q * sigmas) float32, in pixels of each picture.

    For each picture, `size` is (height, width), and `boxes` has the boxes of the class of each of its questions.
    """
    found = []
    for maps, frame, asked in zip(needed["maps"].astype(np.float32), size, boxes, strict=True):
        points = maxima(torch.from_numpy(maps), tuple(frame), sigmas, smooth)  # (Q, S, 2)
        found.append([distances(*each) for each in zip(points, asked, strict=True)])
    return {"distance": np.array(found, dtype=np.float32).reshape(len(found), -1)}
