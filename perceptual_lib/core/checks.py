"""What every explanation asks of its images, targets and network: one clear sentence where it does not fit."""

import torch
from torch import Tensor, nn

from perceptual_lib.core.errors import InputError


def check_inputs(network: nn.Module, inputs: Tensor) -> None:
    """Raise InputError unless `inputs` is a finite batch (B, C, H, W) of the network's kind and on its device."""
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"inputs must be a tensor (B, 3, H, W), not {type(inputs).__name__}; preprocess pictures first."
        )
    if inputs.ndim != 4 or 0 in inputs.shape or (inputs.shape[3] == 3 != inputs.shape[1]):
        raise InputError(f"inputs must have shape (B, 3, H, W), not {tuple(inputs.shape)}.")
    if not inputs.is_floating_point():
        raise InputError(f"inputs must be normalized floating-point images, not {inputs.dtype}.")
    weight = next(network.parameters(), inputs)
    if weight.dtype != inputs.dtype or weight.device != inputs.device:
        raise InputError(
            f"inputs are {inputs.dtype} on {inputs.device} but the network's weights are {weight.dtype} on "
            f"{weight.device}; make them alike."
        )
    if not all_finite(inputs):
        finite = inputs.isfinite().flatten(1).all(1)
        raise InputError(f"inputs hold NaN or infinity in the images {(~finite).nonzero().flatten().tolist()}.")


def all_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity in them, by their extremes: a tenth of the time of looking at each."""
    return bool(torch.stack(values.aminmax()).isfinite().all())


def check_targets(targets: None | int | Tensor, inputs: Tensor) -> Tensor | None:
    """Targets for inputs (B, ...) as a new (B,) int64 on their device, or None for the prediction.

    Raises:
        InputError: another shape or type. The range of the classes is not known here.
    """
    batch = len(inputs)
    if targets is None:
        return None
    if isinstance(targets, int) and not isinstance(targets, bool):
        return torch.full((batch,), targets, device=inputs.device)
    if isinstance(targets, Tensor) and targets.dtype == torch.long and targets.shape == (batch,):
        return targets.clone().to(inputs.device)
    raise InputError(f"targets must be None, one class index, or an int64 tensor of shape ({batch},).")


def check_logits(logits: Tensor, batch: int, multilabel: bool) -> None:
    """Raise InputError unless the network's output suits the margin."""
    if not isinstance(logits, Tensor):
        raise InputError(f"the network must return a tensor of logits, not {type(logits).__name__}.")
    if multilabel:
        fits, wanted = logits.ndim in (2, 4), "(B, K) or (B, K, h, w)"
    else:
        fits, wanted = logits.ndim == 2 and logits.shape[1] > 1, "(B, K) with two classes or more"
    if not fits or len(logits) != batch:
        raise InputError(f"the network must return logits {wanted} for {batch} images, not {tuple(logits.shape)}.")


def resolve_targets(logits: Tensor, batch: int, targets: Tensor | None) -> Tensor:
    """The targets, and where there are none the predictions, of a network with one logit (B, K) a class.

    Raises:
        InputError: other logits, a target out of range.
    """
    check_logits(logits, batch, multilabel=False)
    return logits.argmax(1) if targets is None else in_range(targets, logits.shape[1])


def in_range(targets: Tensor, classes: int) -> Tensor:
    """The targets. Raises InputError where one is no index of so many classes."""
    if not ((targets >= 0) & (targets < classes)).all():
        raise InputError(f"a target is out of range: the network has {classes} classes, counted from 0.")
    return targets
