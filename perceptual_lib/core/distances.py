"""Weighted squared distances of activations (the perceptual term of Eq. 5, Sec. 3), cheaply."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class WeightedDistance:
    """scale ||C_l(x') - C_l(x)||^2 of an activation, for a batch of P problems.

    Attributes:
        reference: C_l(x), (P, ...), or (1, ...) for all problems; in the images' type, also where autocast computes x'
            in another.
        scale: (P,), what the sum of squares is multiplied by.
        room: where differences are written, from one evaluation to the next: memory that is new each time has to be
            cleared by the system, which takes longer than to subtract.
    """

    reference: Tensor
    scale: Tensor
    room: Tensor | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """C_l(x'), (P, ...) -> (P,)."""
        if self.room is None or self.room.shape != value.shape:
            self.room = torch.empty_like(value, dtype=self.reference.dtype)
        distance: Tensor = SquaredDistance.apply(value, self.reference, self.scale, self.room)
        return distance

    def keep(self, rows: Tensor) -> "WeightedDistance":
        """The same for the problems at these rows."""
        reference = self.reference if len(self.reference) == 1 else self.reference[rows]
        return WeightedDistance(reference, self.scale[rows])


class SquaredDistance(torch.autograd.Function):
    """scale sum (value - reference)^2 over all dimensions but the first: (P, ...), (P or 1, ...), (P,) -> (P,).

    The difference is written into `room`, and its gradient over the difference. Written with tensor operations the
    terms cost as much again as the network, whose activations they read; this way a tenth of it. It is kept without
    `save_for_backward`, whose tensors checkpointing would count among those of the network.
    """

    @staticmethod
    def forward(context: Any, value: Tensor, reference: Tensor, scale: Tensor, room: Tensor) -> Tensor:
        difference = torch.sub(value, reference, out=room)
        context.difference, context.scale = difference, scale
        return scale * _squared_norms(difference)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        scale = (2 * gradient * context.scale).view(-1, *[1] * (context.difference.ndim - 1))
        return context.difference.mul_(scale), None, None, None


def _squared_norms(values: Tensor) -> Tensor:
    """(P, ...), without gaps in memory -> (P,)."""
    if len(values) == 1:  # of one row `vector_norm` uses one thread
        row = values.as_strided((values.numel(),), (1,))
        return torch.dot(row, row)[None]
    norms: Tensor = torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))
    return norms.square()
