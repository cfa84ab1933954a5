"""What the search does on its way, and what a change does to the activations (Sec. 3)."""

from typing import Any

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import freeze, trace
from perceptual_lib.core.perturbation import Perturbation, perceptual_ball


def perturbation_path(
    model: nn.Module, inputs: Tensor, *arguments: Any, **settings: Any
) -> tuple[Perturbation, Tensor]:
    """`perceptual_ball` with the perturbation after each step: (steps + 1, B, C, H, W), from delta = 0 to the result.

    An image that ends early keeps its last perturbation. Takes the arguments of `perceptual_ball`.
    """
    records: list[tuple[int, Tensor, Tensor]] = []
    result = perceptual_ball(model, inputs, *arguments, callback=lambda *record: records.append(record), **settings)
    path = inputs.new_zeros(1 + max(step for step, _, _ in records), *inputs.shape)
    for index in range(1, len(path)):
        path[index] = path[index - 1]
        for step, rows, delta in records:
            if step == index:
                path[index, rows] = delta
    return result, path


def relative_changes(network: nn.Module, inputs: Tensor, delta: Tensor) -> Tensor:
    """How far each activation moves, in units of its own size: ||C_l(x + delta) - C_l(x)|| / ||C_l(x)||.

    Args:
        network: any module (of a `Classifier`, its `network`); left as it was.
        inputs, delta: (B, C, H, W).

    Returns:
        (layers, B).
    """
    with freeze(network):
        before, after = (trace(network, images)[2] for images in (inputs, inputs + delta))
    return torch.stack(
        [(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in zip(before, after, strict=True)]
    )
