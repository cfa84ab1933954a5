"""Scores of maps in weak localization (Sec. 4.2)."""

from collections.abc import Sequence

import numpy as np
import torch

from perceptual_lib.evaluation.localization.protocol import localize
from perceptual_lib.evaluation.places import scale_and_blur
from perceptual_lib.photographs.boxes import Box


def compute(
    _classifier: None,
    _pictures: None,
    *,
    needed: dict[str, np.ndarray],
    array: str,
    sigmas: Sequence[float],
    boxes: list[list[Box]],
) -> dict[str, np.ndarray]:
    """How well the largest component of each cut fits an object.

    Args:
        needed: arrays of a shard of maps.
        array: the one of them that holds the maps (B, H, W).
        sigmas: blurs in pixels of the maps.
        boxes: for each map, in its frame.

    Returns:
        iou (B, sigmas, 250) float32: see `protocol.localize`.
    """
    maps = torch.from_numpy(needed[array].astype(np.float32))
    return {"iou": np.stack([localize(scale_and_blur(maps, sigma), boxes) for sigma in sigmas], 1, dtype=np.float32)}
