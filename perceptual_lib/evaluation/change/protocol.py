"""What a perturbation does: during its search, to the activations, and where in the image (Secs. 1, 3 and 4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.perturbation import Perturbation
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.places import effective_share, extent, share_inside
from perceptual_lib.photographs.boxes import Box, box_mask

BLUR = 5.0  # pixels: changes that are closer together count as one place


def perturbation_path(
    model: nn.Module, inputs: Tensor, *arguments: Any, **settings: Any
) -> tuple[Perturbation, Tensor]:
    """The result of `perceptual_ball`, and its perturbation after each step, (steps + 1, B, C, H, W), from delta = 0 to
    the result; an image whose search ends early keeps its last one."""
    path = [inputs.new_zeros(inputs.shape)]

    def keep(step: int, rows: Tensor, delta: Tensor) -> None:
        if step == len(path):
            path.append(path[-1].clone())
        for later in path[step:]:  # there are some if a batch before this one took more steps
            later[rows] = delta

    result = perceptual_ball(model, inputs, *arguments, callback=keep, **settings)
    return result, torch.stack(path)


def compute(
    *_: Any, needed: dict[str, np.ndarray], array: str, unit: float, boxes: Sequence[Sequence[Box]]
) -> dict[str, np.ndarray]:
    """What a shard computes from changes with the maps `needed[array]` (B, H, W): the measures (B,) of `Change`.

    Where nothing changes, inside and spread are 0. `unit` is what a 1 of the network's input is in 0..255.
    """
    energy = needed[array].astype(np.float64) ** 2
    height, width = energy.shape[1:]
    masks = np.stack([box_mask(of_image, height, width) for of_image in boxes])
    grown = [[(x - width / 8, y - height / 8, r + width / 8, b + height / 8) for x, y, r, b in each] for each in boxes]
    ring = np.stack([box_mask(of_image, height, width) for of_image in grown]) & ~masks
    return {
        **{name: needed[name] for name in ("margin_before", "margin", "cosine", "growth")},
        "inside": np.nan_to_num(share_inside(energy, masks)),
        "area": masks.mean((1, 2)),
        "size": np.sqrt(energy.mean((1, 2))) * needed[f"{array}_scales"] * unit,
        "largest": needed[f"{array}_scales"] * unit,
        "spread": effective_share(energy),
        "blurred_spread": effective_share(gaussian_blur(torch.from_numpy(energy), BLUR).numpy()),
        "extent": extent(energy),
        "near": share_inside(energy * ~masks, ring),
        "near_area": share_inside(~masks, ring),
    }
