"""What every explanation asks of its images, targets and network: if they do not fit, one clear sentence says so."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from perceptual_lib.core.calling import HALF, first_weight, precision_of
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.first_look import look_at
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.precision import computing

Targets = None | int | Sequence[int] | Tensor
"""The class explained: None for the prediction, one index for all images, or (B,) of them, also as NumPy's."""


@contextmanager
def ready(
    model: nn.Module, inputs: Tensor, targets: Targets, *, gradient: bool = True
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Context in which a model can be explained: frozen, without gradients, in its precision, and put back on leaving.

    Yields copies of the images (B, C, H, W), float32 if they were of half precision, and targets (B,) on their device,
    or None for the predictions. Whether targets are in range is not checked yet. Raises InputError for what does not
    fit, and for a network without a gradient in the image if `gradient` is needed.
    """
    check_inputs(model, inputs)
    # Inference tensors take no gradient.
    with torch.inference_mode(False), torch.no_grad(), freeze(model), computing(precision_of(model), inputs.device):
        images = inputs.to(torch.float32 if inputs.dtype in HALF else inputs.dtype, copy=True)
        found = look_at(model, images)
        if gradient and found.no_gradient:
            raise InputError(found.no_gradient)
        yield images, check_targets(targets, inputs)


def check_inputs(network: nn.Module, inputs: Tensor) -> None:
    """Raise InputError unless `inputs` is a finite batch (B, C, H, W) of the network's kind and on its device."""
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"inputs must be a tensor (B, C, H, W), not {type(inputs).__name__}; preprocess pictures first."
        )
    if inputs.ndim != 4 or 0 in inputs.shape or (inputs.shape[3] == 3 and inputs.shape[1] not in (1, 3)):
        raise InputError(f"inputs must have shape (B, C, H, W), not {tuple(inputs.shape)}.")
    if not inputs.is_floating_point():
        raise InputError(f"inputs must be normalized floating-point images, not {inputs.dtype}.")
    weight = first_weight(network, inputs)
    alike = weight.dtype == inputs.dtype or (weight.dtype in HALF and inputs.dtype == torch.float32)
    if not alike or weight.device != inputs.device:
        raise InputError(
            f"inputs are {inputs.dtype} on {inputs.device} but the network's weights are {weight.dtype} on "
            f"{weight.device}; make them alike."
        )
    if not (finite := inputs.isfinite().flatten(1).all(1)).all():
        raise InputError(f"inputs hold NaN or infinity in the images {(~finite).nonzero().flatten().tolist()}.")


def check_targets(targets: Targets, inputs: Tensor) -> Tensor | None:
    """Targets for inputs (B, ...) as a new (B,) int64 on their device, or None. Raises InputError for others."""
    if targets is None:
        return None
    try:
        classes = targets if isinstance(targets, Tensor) else torch.as_tensor(targets, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # words, lists of unequal lengths
        classes = torch.empty(0)
    whole = not (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool)
    if whole and classes.shape in ((), (len(inputs),)):
        return classes.to(inputs.device, torch.long).expand(len(inputs)).clone()
    raise InputError(f"targets must be None, one class index, or {len(inputs)} of them, one for each image.")


def check_logits(logits: Tensor, batch: int, multilabel: bool) -> None:
    """Raise InputError unless the network's output suits the margin."""
    if multilabel:
        fits, wanted = logits.ndim in (2, 4), "(B, K) or (B, K, h, w)"
    else:
        fits, wanted = logits.ndim == 2 and logits.shape[1] > 1, "(B, K) with two classes or more"
    if not fits or len(logits) != batch:
        raise InputError(f"the network must return logits {wanted} for {batch} images, not {tuple(logits.shape)}.")


def resolve_targets(logits: Tensor, batch: int, targets: Tensor | None, multilabel: bool = False) -> Tensor:
    """The targets (B,), or the predictions if none are given. Logits are (B, K), or with `multilabel` also
    (B, K, h, w), whose largest region counts. Raises InputError for other logits, and for a target out of range."""
    check_logits(logits, batch, multilabel)
    scores = logits.flatten(2).amax(2) if logits.ndim > 2 else logits
    if targets is None:
        return scores.argmax(1)
    if not ((targets >= 0) & (targets < scores.shape[1])).all():
        raise InputError(f"a target is out of range: the network has {scores.shape[1]} classes, counted from 0.")
    return targets


def target_logits(logits: Tensor, batch: int, targets: Tensor | None) -> Tensor:
    """(B,), each image's own logit for its target, or without targets its largest. Raises as `resolve_targets`."""
    return logits.gather(1, resolve_targets(logits, batch, targets)[:, None]).squeeze(1)
