"""The functions that users call: the perturbation (Eq. 5) of a batch of images, with one choice of layers or many."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perceptual_lib.core.batches import full_batch, in_halves, join
from perceptual_lib.core.calling import Scored, network_of
from perceptual_lib.core.checks import ready
from perceptual_lib.core.errors import InputError, is_out_of_memory
from perceptual_lib.core.first_look import findings
from perceptual_lib.core.passes import Passes, Stale
from perceptual_lib.core.perturbation import Callback, Objective, Perturbation, smallest_change
from perceptual_lib.core.selection import list_layers
from perceptual_lib.core.settings import Layers, suited


def perceptual_ball(
    model: nn.Module,
    inputs: Tensor,
    targets: None | int | Tensor = None,
    layers: Layers | None = None,
    *,
    towards: None | int | Tensor = None,
    objective: Callable[[Any], Tensor] | None = None,
    batch_size: int | None = None,
    callback: Callback | None = None,
    **settings: Any,
) -> Perturbation:
    """Find for each image a change, small in pixels and in activations, that takes its class away (Eq. 5).

    Minimizes (M_i(x') - T)^2 + lambda' sum_l ||C_l(x') - C_l(x)||^2 + lambda ||x' - x||^2 with L-BFGS from x' = x.
    The norms are means over elements, as in the authors' code. The images of a batch are independent problems.

    Args:
        model: a `Classifier` or any module from images to logits. It is left as it was, also after an error, including
            the tensors that it keeps in its attributes.
        inputs: (B, C, H, W) floating point, in the network's normalized space.
        targets: the class i: None for the network's prediction, one index for all, or (B,) int64.
        layers: the activations to hold, by index, name or range (see `select_layers`), or modules, by path, whose
            outputs are held; `()` is the paper's "NoPer" (Eq. 4), None stands for what suits the network.
        towards: the class to reach instead, given like `targets`: "why this and not that?". The margin is then the lead
            of the best other class; below 0 the network predicts the class to reach.
        objective: a function from the network's output to (B,) numbers, which take the place of the margin and are to
            fall below 0, see `Scored`.
        batch_size: images in memory at once; None for what suits the device, see `full_batch`. The results do not
            depend on it.
        callback: `callback(step, rows, delta)` is called at the start of each batch and after each of its steps, with
            the indices in `inputs` of the images in the batch and their perturbations. Images that have converged leave
            the batch, on a GPU not at once. On a GPU the steps may start over, if the network has changed unnoticed.
        settings: the hyperparameters T, lambda', lambda and others, see `Settings`. Those that are missing or None are
            set to what suits the network: the authors' values for VGG19 with batch normalization; for others
            lambda' = 100 with normalized layers, and 60 steps.

    Raises InputError for arguments that do not fit, or not enough memory for a single image.
    """
    if (targets is not None) + (towards is not None) + (objective is not None) > 1:
        raise InputError("targets, towards and objective each say what is explained; give one of them.")
    if objective is not None:
        model, targets = Scored(model, objective), 0
    if towards is not None:
        targets, settings = towards, settings | {"reach": True}
    chosen = suited(network_of(model), layers=layers if layers is None else list_layers(layers), **settings)
    with ready(model, inputs, targets) as (images, classes):
        passes, size = Passes(model, later=True), _size(model, inputs, batch_size)

        def solve(rows: Tensor) -> Perturbation:
            own = None if classes is None else classes[rows]
            report = callback and (lambda step, left, delta: callback(step, rows[left], delta))
            return _search(passes, images[rows], own, [chosen.layers], chosen, callback=report)

        return join(in_halves(solve, images, len(images), size))


def perturbations_by_layers(
    model: nn.Module,
    inputs: Tensor,
    choices: Iterable[Layers | None],
    targets: None | int | Tensor = None,
    *,
    batch_size: int | None = None,
    **settings: Any,
) -> list[Perturbation]:
    """What `perceptual_ball` finds with each of several choices of layers (Fig. 5), faster than by as many calls.

    The choices for an image form one batch. They share its reference activations and the first evaluation: at x' = x no
    activation has moved, so all of them begin as "NoPer" does.

    Args:
        model, inputs, targets, settings: see `perceptual_ball`, also for what is raised.
        choices: each like `layers` of `perceptual_ball`, such as all ranges "i-j"; InputError if there is none.
        batch_size: choices in memory at once; None for what suits the device. The results do not depend on it.

    Returns:
        A result (B, ...) for each choice, in the order of the choices.
    """
    held = [layers if layers is None else list_layers(layers) for layers in choices]
    if not held:
        raise InputError("there are no layers to choose from; give one choice or more.")
    if "layers" in settings:
        raise InputError("the layers to hold are the choices; leave out layers.")
    chosen = suited(network_of(model), **settings)
    with ready(model, inputs, targets) as (images, classes):
        passes, size = Passes(model, later=True), _size(model, inputs, batch_size)

        def solve(image: slice, rows: Tensor) -> Perturbation:
            own = None if classes is None else classes[image]
            return _search(passes, images[image], own, [held[row] for row in rows.tolist()], chosen)

        by_image = [
            join(in_halves(partial(solve, slice(row, row + 1)), images, len(held), size)) for row in range(len(images))
        ]
    return [join(by_image, partial(_stack, index)) for index in range(len(held))]


def _size(model: nn.Module, inputs: Tensor, asked: int | None) -> int:
    size = full_batch(model, inputs.device, asked)
    return 1 if findings(model).mixed else size


def _search(passes: Passes, *objective: Any, callback: Callback | None = None) -> Perturbation:
    """Search, and once more if the network was not what it was taken for, which may first show as another error."""
    try:
        return smallest_change(Objective(passes, *objective), callback)
    except (Stale, InputError, RuntimeError) as error:
        if is_out_of_memory(error) or not (isinstance(error, Stale) or passes.is_stale()):
            raise
    return smallest_change(Objective(passes, *objective), callback)


def _stack(index: int, tensors: list[Tensor]) -> Tensor:
    """One choice's rows of the images' tensors (choices, ...), stacked: (B, ...)."""
    return torch.stack([tensor[index] for tensor in tensors])
