"""Where a perturbation goes, measured on its map (Secs. 1, 3 and 4)."""

import numpy as np

from perceptual_lib.evaluation.places import share_inside
from perceptual_lib.photographs.boxes import Box, box_mask


def compute(
    _classifier: None,
    _pictures: None,
    *,
    needed: dict[str, np.ndarray],
    array: str,
    unit: float,
    boxes: list[list[Box]],
) -> dict[str, np.ndarray]:
    """Size and place of each perturbation.

    Args:
        needed: arrays of a shard of perturbations.
        array: the one of them that holds the maps (B, H, W).
        unit: what a 1 of the network's input is in 0..255.
        boxes: for each map, in its frame.

    Returns:
        margin_before and margin as `perceptual_ball` has them, and, (B,) each: inside, the share of the squared change
        inside the boxes; area, the share of the picture that they cover; size, the root mean square of the change over
        pixels and channels in 0..255; spread, the share of pixels that the squared change would cover if it were even:
        with e the squared change of n pixels, (sum e)^2 / (n sum e^2). Where nothing changes inside and spread are 0.
    """
    maps = needed[array].astype(np.float64)
    energy = maps**2
    masks = np.stack([box_mask(of_image, *maps.shape[1:]) for of_image in boxes])
    total, peaks = energy.sum((1, 2)), (energy**2).sum((1, 2))
    return {
        "margin_before": needed["margin_before"],
        "margin": needed["margin"],
        "inside": np.nan_to_num(share_inside(energy, masks)),
        "area": masks.mean((1, 2)),
        "size": np.sqrt(energy.mean((1, 2))) * needed[f"{array}_scales"] * unit,
        "spread": total**2 / np.where(peaks > 0, peaks, 1) / energy[0].size,
    }
