"""Scenes: pictures of several objects, in which one asks where a class is (the pointing game, Sec. 4.4).

A scene has a name, a size and `questions`: VOC's pictures (`voc`) and mosaics of photographs (`mosaics`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from perceptual_lib.photographs.boxes import Box, box_mask


@dataclass(frozen=True)
class Question:
    """Where is this class in the scene?

    target: index of the class
    boxes: around all its objects, (left, top, right, bottom) in inclusive pixels of the scene's own picture
    hard: whether it belongs to the difficult subset
    """

    target: int
    boxes: tuple[Box, ...]
    hard: bool


def is_small(boxes: Iterable[Box], size: tuple[int, int]) -> bool:
    """Whether boxes cover less than a quarter of a picture of `size` (width, height) (Zhang et al. 2016)."""
    width, height = size
    return bool(box_mask(boxes, height, width).mean() < 1 / 4)
