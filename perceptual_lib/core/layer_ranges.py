"""How much the explanation depends on the layers that are held: one image, many choices (paper Fig. 5)."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import Layers, list_layers
from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.perturbation import Objective, Perturbation, join, solve


def perturbations_by_layers(
    model: nn.Module,
    inputs: Tensor,
    choices: Iterable[Layers],
    targets: None | int | Tensor = None,
    *,
    max_iter: int = 200,
    batch_size: int | None = None,
    **settings: object,
) -> list[Perturbation]:
    """What `perceptual_ball` finds with each of several choices of layers, for less than as many calls.

    The choices for an image are one batch. They share its reference activations and the first evaluation: at x' = x no
    activation has moved, so that all of them begin as "NoPer" does. A choice that has converged leaves the batch.

    Args:
        model, inputs, targets, max_iter: see `perceptual_ball`.
        choices: each as the `layers` of `perceptual_ball`, such as all ranges "i-j".
        batch_size: choices in memory at once; None for what suits the device. The results do not depend on it.
        settings: further keyword arguments of `perceptual_ball`, without a callback.

    Returns:
        A result (B, ...) for each choice, in their order.

    Raises:
        InputError: no choices, and as `perceptual_ball`.
    """
    choices = [list_layers(layers) for layers in choices]
    if not choices:
        raise InputError("there are no layers to choose from; give one choice or more.")
    objective = Objective(model, **settings)
    with objective.checked(inputs, targets, max_iter, batch_size) as (inputs, targets):
        by_image = [
            _all_choices(
                objective, image, None if targets is None else targets[row : row + 1], choices, max_iter, batch_size
            )
            for row, image in enumerate(inputs.split(1))
        ]
    return [
        Perturbation(
            *(
                torch.stack([getattr(of_image, field.name)[index] for of_image in by_image])
                for field in fields(Perturbation)
            )
        )
        for index in range(len(choices))
    ]


def _all_choices(
    objective: Objective,
    image: Tensor,
    target: Tensor | None,
    choices: Sequence[Layers],
    max_iter: int,
    batch_size: int | None,
) -> Perturbation:
    """(choices, ...) of one image (1, C, H, W)."""

    def bind(rows: Tensor) -> None:
        objective.bind(image, target, [choices[row] for row in rows.tolist()])

    batches = torch.arange(len(choices), device=image.device).split(batch_size or full_batch(image.device))
    return join([solve(objective, bind, rows, max_iter) for rows in batches])
