"""How much the explanation depends on the layers that are held: one image, many choices (paper Fig. 5)."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import list_layers, network_of
from perceptual_lib.core.batches import in_halves, join
from perceptual_lib.core.checks import ready
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.perturbation import Objective, Perturbation, smallest_change
from perceptual_lib.core.settings import Layers, Settings


def perturbations_by_layers(
    model: nn.Module,
    inputs: Tensor,
    choices: Iterable[Layers],
    targets: None | int | Tensor = None,
    *,
    batch_size: int | None = None,
    **settings: Any,
) -> list[Perturbation]:
    """What `perceptual_ball` finds with each of several choices of layers, for less than as many calls.

    The choices for an image are one batch. They share its reference activations and the first evaluation: at x' = x no
    activation has moved, so that all of them begin as "NoPer" does. A choice that has converged leaves the batch.

    Args:
        model, inputs, targets: see `perceptual_ball`.
        choices: each as the `layers` of `perceptual_ball`, such as all ranges "i-j".
        batch_size: choices in memory at once; None for what suits the device. The results do not depend on it.
        settings: the other hyperparameters, see `Settings`.

    Returns:
        A result (B, ...) for each choice, in their order.

    Raises:
        InputError: no choices, and as `perceptual_ball`.
    """
    held = [list_layers(layers) for layers in choices]
    if not held:
        raise InputError("there are no layers to choose from; give one choice or more.")
    chosen = Settings(**settings)
    with ready(model, inputs, targets, batch_size) as (images, classes):
        passes = Passes(network_of(model))

        def solve(image: slice, rows: Tensor) -> Perturbation:
            own = None if classes is None else classes[image]
            return smallest_change(Objective(passes, images[image], own, [held[row] for row in rows.tolist()], chosen))

        by_image = [
            join(in_halves(partial(solve, slice(row, row + 1)), images, len(held), batch_size))
            for row in range(len(images))
        ]
    return [join(by_image, partial(_stack, index)) for index in range(len(held))]


def _stack(index: int, tensors: list[Tensor]) -> Tensor:
    """(B, ...) of one choice, of (choices, ...) for each image."""
    return torch.stack([tensor[index] for tensor in tensors])
