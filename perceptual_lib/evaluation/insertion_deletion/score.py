"""Scores of maps in the insertion and deletion games (Sec. 4.3)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from perceptual_lib.evaluation.insertion_deletion.protocol import STEP, impulse_blur, insertion_deletion
from perceptual_lib.networks.classifier import Classifier


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    needed: dict[str, np.ndarray],
    array: str,
    sigmas: Sequence[float],
    step: int = STEP,
) -> dict[str, np.ndarray]:
    """The curves of the classes that the maps explain.

    Args:
        classifier: the network.
        pictures: B of them.
        needed: arrays of a shard of maps.
        array: the one of them that holds the maps (B, H, W).
        sigmas: blurs in pixels of the maps, by RISE's kernel.
        step: pixels that change at once.

    Returns:
        curves (B, sigmas, 2, n) float32: see `protocol.insertion_deletion`.
    """
    images = classifier.preprocess(pictures)
    maps = torch.from_numpy(needed[array].astype(np.float32)).to(images.device)
    blurred = torch.stack([impulse_blur(maps, sigma) for sigma in sigmas], 1)
    targets = torch.from_numpy(needed["targets"])
    return {"curves": insertion_deletion(classifier, images, blurred, targets, step=step).cpu().numpy()}
