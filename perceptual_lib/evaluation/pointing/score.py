"""Scores of maps in the pointing game (Sec. 4.4)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from perceptual_lib.evaluation.pointing.protocol import distances, maxima
from perceptual_lib.photographs.boxes import Box


def compute(
    _classifier: None,
    _pictures: None,
    *,
    needed: dict[str, np.ndarray],
    sigmas: Sequence[float],
    size: list[tuple[int, int]],
    boxes: list[list[list[Box]]],
) -> dict[str, np.ndarray]:
    """How far the most salient pixel lies from the objects.

    Args:
        needed: arrays of a shard of maps, (B, Q, h, w) among them.
        sigmas: S blurs in pixels of the maps.
        size: (height, width) of each picture.
        boxes: for each of its questions those of the class, in its pixels.

    Returns:
        distances (B, Q, S) float32 in pixels of the picture, 0 inside a box. A hit is less than `TOLERANCE`.
    """
    maps = torch.from_numpy(needed["maps"].astype(np.float32))
    columns = zip(maps, size, boxes, strict=True)
    return {"distances": np.stack([_distances(*column, sigmas) for column in columns], dtype=np.float32)}


def _distances(maps: Tensor, size: tuple[int, int], boxes: list[list[Box]], sigmas: Sequence[float]) -> np.ndarray:
    """(Q, S) of one picture."""
    points = maxima(maps, tuple(size), sigmas)  # (Q, S, 2)
    return np.stack([distances(*each) for each in zip(points, boxes, strict=True)])
