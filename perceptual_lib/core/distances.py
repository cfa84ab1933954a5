"""The squared distances of activations in Eq. 5, cheaply."""

from typing import Any

import torch
from torch import Tensor


class SquaredDistance(torch.autograd.Function):
    """||value - reference||^2 of each problem: (P, ...), and (P, ...) or (1, ...) for all problems -> (P,).

    The gradient is written over the difference. With tensor operations a distance costs as much again as the network
    whose activation it reads; this way a tenth of it. The difference is in the reference's type, also where autocast
    computes the value in another. It is kept without `save_for_backward`, whose tensors checkpointing would count among
    those of the network. It is written into `room`, where there is one.
    """

    @staticmethod
    def forward(context: Any, value: Tensor, reference: Tensor, room: Tensor | None = None) -> Tensor:
        context.difference = torch.sub(value, reference, out=room)
        return _squared_norm(context.difference)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        factor = (2 * gradient).view(-1, *[1] * (context.difference.ndim - 1))
        return context.difference.mul_(factor), None, None


def _squared_norm(values: Tensor) -> Tensor:
    """(P, ...), without gaps in memory -> (P,)."""
    if len(values) == 1:  # of one row `vector_norm` uses one thread, or a few blocks of a GPU
        row = values.as_strided((values.numel(),), (1,))
        return torch.dot(row, row)[None]
    norms: Tensor = torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))
    return norms.square()
