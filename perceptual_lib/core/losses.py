"""Losses and their gradients, by autograd; problems that are given to L-BFGS by their losses alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from perceptual_lib.core.errors import InputError, see

NO_GRADIENT = (
    "the network's outputs have no gradient in the image (torch.no_grad, detach or NumPy on the way, or quantized "
    f"weights?); use a network that can be trained, or a method that needs none, as rise{see('No gradient')}."
)
Losses = Callable[[Tensor, Tensor], Tensor]
"""Of points (B, N) and the numbers (B,) of the problems that they belong to: the losses (B,)."""


def with_gradient(loss: Callable[..., Tensor], points: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (B,) that `loss(points, *rest)` gives, each of its own row, and their gradients in the points (B, ...)."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        losses = loss(points, *rest)
        (gradient,) = torch.autograd.grad(losses.sum(), points, allow_unused=True)
    if gradient is None:
        raise InputError(NO_GRADIENT)
    return losses.detach(), gradient


class Differentiated:
    """The `Problems` of a function: it is told which of the original ones are left."""

    def __init__(self, losses: Losses, start: Tensor) -> None:
        self.losses = losses
        self.rows = torch.arange(len(start), device=start.device)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) and gradients (B, N); raises InputError for losses of another shape or without a gradient."""
        gradient = None
        with torch.inference_mode(False), torch.enable_grad():
            points = points.clone().requires_grad_()  # a copy: inference tensors take no gradient
            losses = self.losses(points, self.rows)
            if not isinstance(losses, Tensor) or losses.shape != self.rows.shape:
                raise InputError(f"losses must be a tensor of shape ({len(points)},), not {kind(losses)}.")
            if losses.requires_grad:
                (gradient,) = torch.autograd.grad(losses.sum(), points, allow_unused=True)
        if gradient is None:
            raise InputError("losses must be computed from the points by torch operations that have a gradient.")
        return losses.detach(), gradient

    def keep(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]


def kind(value: object) -> str:
    """What was given, for the sentence that refuses it."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
