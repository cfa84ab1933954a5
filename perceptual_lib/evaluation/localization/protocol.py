"""Weak localization (paper Sec. 4.2): does a box around the largest part of a map find the object?

A map is scaled to [0, 1], blurred, and cut at 250 thresholds by three strategies. A cut is a hit when the bounding box
of its largest 8-connected component has an intersection over union (IoU) of at least 0.5 with a box around an object
of the image's class. The error is the share of images without a hit, at the one threshold that is best for all.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.places import edge_mask, effective_share, scale_and_blur, share_inside
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.boxes import Box, box_array

ALPHAS = {
    "value": np.arange(1, 21) / 20,  # pixels above alpha
    "percent": np.arange(1, 21) / 20,  # the share alpha of the pixels, those of the largest values
    "mean": np.arange(1, 211) / 20,  # pixels above alpha times the map's mean
}
"""The grid of each strategy."""

THRESHOLDS = tuple((strategy, float(alpha)) for strategy, grid in ALPHAS.items() for alpha in grid)
"""What each column of `localize` stands for."""

STRATEGY_COLUMNS = {"value": slice(0, 20), "percent": slice(20, 40), "mean": slice(40, 250), "best": slice(0, 250)}
"""The columns of each strategy; "best" is the choice among all of them."""


def cut(saliency: np.ndarray, strategy: str, alpha: float) -> np.ndarray:
    """The pixels that one threshold keeps of a map (H, W) as from `scale_and_blur`: (H, W) bool, all components.
    Raises InputError for a strategy that is none of `ALPHAS`."""
    if strategy not in ALPHAS:
        raise InputError(f"there is no strategy {strategy!r}; there are {', '.join(ALPHAS)}.")
    if strategy == "percent":
        kept = max(1, round(alpha * saliency.size))
        return saliency >= np.sort(saliency, axis=None)[-kept]
    return saliency > np.float32(alpha * (saliency.mean(dtype=np.float64) if strategy == "mean" else 1))


def localize(maps: ArrayLike, boxes: Sequence[Sequence[Box]]) -> np.ndarray:
    """How well the largest component of each cut of a map fits an object: (N, 250) for the THRESHOLDS.

    The fit is the largest IoU of the component's box with a box of the map, in [0, 1]; 0 for an empty cut. Maps
    (N, H, W), and what is raised for them, are as for `component_boxes`; for boxes, in the frame of their map, as by
    `box_array`.
    """
    boxes = [box_array(of_map) for of_map in boxes]
    found = component_boxes(maps)
    if len(boxes) != len(found):
        raise InputError(f"there are {len(found)} maps and boxes for {len(boxes)}; give each map its own.")
    return np.stack([box_iou(cuts, of_map).max(1) for cuts, of_map in zip(found, boxes, strict=True)])


def component_boxes(maps: ArrayLike) -> np.ndarray:
    """The box of the largest component of each cut of each map, (N, 250, 4) int32, as from `largest_boxes`.

    "percent" keeps at least one pixel, and all pixels as large as the last one kept: a constant map is kept whole. Maps
    (N, H, W) as from `scale_and_blur`, arrays or tensors on the CPU, are compared in single precision. Raises
    InputError for another shape, no map, or values that are below 0 or not finite.
    """
    from perceptual_lib.evaluation.localization.components import largest_boxes  # not above: it imports a compiler

    maps = np.asarray(maps, dtype=np.float32)
    if maps.ndim != 3 or maps.size == 0 or not (maps.min() >= 0 and maps.max() < np.inf):
        raise InputError("maps must have the shape (N, H, W) and finite values of at least 0; see scale_and_blur.")
    result = np.empty((len(maps), len(THRESHOLDS), 4), dtype=np.int32)
    for boxes, one in zip(result, maps, strict=True):
        order = _ascending_order(one.ravel())
        starts = _cut_starts(one.ravel()[order], one.mean(dtype=np.float64))
        falling = np.argsort(-starts)
        boxes[falling] = largest_boxes(order, starts[falling], *one.shape)
    return result


def _ascending_order(values: np.ndarray) -> np.ndarray:
    """The indices that sort nonnegative float32 numbers, found several times as fast as by `numpy.argsort`.

    The bits of such numbers rank as the numbers do, and NumPy sorts integers of 16 bits in linear time.
    """
    bits = (values + np.float32(0)).view(np.uint32)  # the sum turns -0, which has other bits, into 0
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    return order[np.argsort((bits >> 16).astype(np.uint16)[order], kind="stable")]


def _cut_starts(ascending: np.ndarray, mean: float) -> np.ndarray:
    """For each of the THRESHOLDS, the index (250,) at which its cut starts in a map's sorted float32 values (H W,)."""
    kept = np.maximum(1, np.round(ALPHAS["percent"] * len(ascending)).astype(int))
    return np.concatenate(
        [
            np.searchsorted(ascending, ALPHAS["value"].astype(np.float32), side="right"),
            np.searchsorted(ascending, ascending[-kept], side="left"),
            np.searchsorted(ascending, (ALPHAS["mean"] * mean).astype(np.float32), side="right"),
        ]
    )


def box_iou(some: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Intersection over union (K, M), in [0, 1], of boxes (K, 4) and (M, 4) in inclusive pixels."""

    def area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.maximum(high - low + 1, 0).prod(-1)

    some, others = np.asarray(some, dtype=np.float64)[:, None], np.asarray(others, dtype=np.float64)[None]
    shared = area(np.maximum(some[..., :2], others[..., :2]), np.minimum(some[..., 2:], others[..., 2:]))
    return shared / (area(some[..., :2], some[..., 2:]) + area(others[..., :2], others[..., 2:]) - shared)


def is_hit(iou: np.ndarray) -> np.ndarray:
    """Whether the object is localized: bool, of the same shape."""
    return iou >= 0.5


def best_column(hits: np.ndarray) -> int:
    """The threshold with the most hits (N, K) on these very images, as the paper chooses it; the first of equals."""
    return int(hits.sum(0).argmax())


def held_out_hits(hits: np.ndarray) -> np.ndarray:
    """(N,) hits at a threshold that was chosen on other images: on the odd ones for the even, and the other way round.

    Takes hits (N, K) bool, of at least two images (else InputError), with the columns of one strategy or of all.
    """
    if len(hits) < 2:
        raise InputError(
            f"a threshold is chosen on one half of the images for the other; give two or more, not {len(hits)}."
        )
    result = np.empty(len(hits), dtype=bool)
    for half in range(2):
        result[half::2] = hits[half::2, best_column(hits[1 - half :: 2])]
    return result


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    needed: dict[str, np.ndarray],
    array: str,
    sigmas: Sequence[float],
    boxes: Sequence[Sequence[Box]],
    grey: bool,
) -> dict[str, np.ndarray]:
    """What a shard computes from maps `needed[array]` (B, H, W): iou and hits (B, sigmas, 250) for the THRESHOLDS, and
    edges and spread (B, sigmas) of `Localization`. `grey` first clips maps at the 99th percentile of their values."""
    maps = torch.from_numpy(needed[array].astype(np.float32))
    if grey:
        maps = maps.clamp(max=maps.flatten(1).quantile(0.99, 1)[:, None, None])
    blurred = [scale_and_blur(maps, sigma) for sigma in sigmas]
    iou = np.stack([localize(each, boxes) for each in blurred], 1, dtype=np.float32)
    edges = np.stack([edge_mask(picture) for picture in classifier.pixels(classifier.preprocess(pictures))])
    on_edges = np.stack([share_inside(each**2, edges) for each in blurred], 1)
    spread = np.stack([effective_share(each.numpy() ** 2) for each in blurred], 1)
    return {"iou": iou, "hits": is_hit(iou), "edges": on_edges, "spread": spread}
