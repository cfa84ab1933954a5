"""What a perturbation does: on the way to it, to the activations, and where in the image (Secs. 1, 3 and 4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import trace
from perceptual_lib.core.calling import freeze
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.perturbation import Perturbation
from perceptual_lib.evaluation.places import share_inside
from perceptual_lib.photographs.boxes import Box, box_mask


def perturbation_path(
    model: nn.Module, inputs: Tensor, *arguments: Any, **settings: Any
) -> tuple[Perturbation, Tensor]:
    """`perceptual_ball` with the perturbation after each step: (steps + 1, B, C, H, W), from delta = 0 to the result.

    An image that ends early keeps its last perturbation. Takes the arguments of `perceptual_ball`.
    """
    path = [inputs.new_zeros(inputs.shape)]

    def keep(step: int, rows: Tensor, delta: Tensor) -> None:
        if step == len(path):
            path.append(path[-1].clone())
        for later in path[step:]:  # of a batch before this one, which took more steps
            later[rows] = delta

    result = perceptual_ball(model, inputs, *arguments, callback=keep, **settings)
    return result, torch.stack(path)


def relative_changes(network: nn.Module, inputs: Tensor, delta: Tensor) -> Tensor:
    """(layers, B), how far each activation moves, in units of its own size: ||C_l(x + delta) - C_l(x)|| / ||C_l(x)||.

    Of any module (of a `Classifier`, its `network`), which is left as it was, and of inputs and delta (B, C, H, W).
    """
    with freeze(network):
        before, after = (trace(network, images)[2] for images in (inputs, inputs + delta))
    return torch.stack(
        [(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in zip(before, after, strict=True)]
    )


def compute(
    *_: Any, needed: dict[str, np.ndarray], array: str, unit: float, boxes: Sequence[Sequence[Box]]
) -> dict[str, np.ndarray]:
    """What a shard computes: of changes, whose maps are `needed[array]`, (B, H, W), the measures (B,) of `Change`.

    Where nothing changes inside and spread are 0. `unit` is what a 1 of the network's input is in 0..255.
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
