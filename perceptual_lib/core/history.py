"""What L-BFGS remembers of a batch of problems, and the inverse Hessian that it stands for."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

CURVATURE = 1e-10  # torch's least product of step and gradient change for a pair to be remembered
PIECE = 2048  # numbers of a long vector that a GPU multiplies at once


class Buffers:
    """Tensors with a row for each problem of a batch. Reduced to some rows, they are the first of where they were: what
    is recorded on a GPU reads and writes there."""

    def __init__(self, **whole: Tensor) -> None:
        self.whole: Mapping[str, Tensor] = whole
        self.first(len(next(iter(whole.values()))))

    def first(self, count: int) -> None:
        """What is in use: the first rows."""
        for name, each in self.whole.items():
            setattr(self, name, each[:count])

    def keep(self, rows: Tensor) -> None:
        """Reduce to these rows, in ascending order."""
        for each in self.whole.values():
            if each.ndim <= 2:
                each[: len(rows)] = each[rows]
            else:  # one by one: a copy would double the memory at its peak
                for target, source in enumerate(rows.tolist()):
                    if target != source:
                        each[target] = each[source]
        self.first(len(rows))


class History(Buffers):
    """The remembered pairs of each problem, and the inverse Hessian that they stand for.

    Steps S and changes Y are ring buffers of M slots, filled per problem: a pair of too little curvature is not
    remembered, and each problem forgets its own oldest. Of their products are kept, (B, M, M) and float64 but on MPS,
    Y Y' and the inverse of R, the part of S Y' where the step is no younger than the change. In the order of the slots
    it is as good as in that of age; where a slot is empty it is zero. A new pair adds a column to R, and to its inverse
    one that is computed from it; the oldest pair takes its row and column along.
    """

    steps: Tensor
    changes: Tensor
    inverse: Tensor
    change_change: Tensor
    curvature: Tensor  # the diagonal of R, (B, M)
    scale: Tensor  # of the first inverse Hessian, (B,)
    count: Tensor  # pairs ever remembered, (B,)

    def __init__(self, like: Tensor, size: int) -> None:
        batch, self.length = like.shape
        self.size = size
        # (B, pieces, M, length of a piece): a GPU multiplies pieces of long vectors side by side.
        fewest = 1 if like.device.type == "cpu" else -(-self.length // PIECE)
        even = (pieces for pieces in range(fewest, 2 * fewest) if self.length % pieces == 0)  # nothing is to be padded
        pieces = next(even, fewest)
        long = batch, pieces, size, -(-self.length // pieces)
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        super().__init__(
            steps=like.new_zeros(long),
            changes=like.new_zeros(long),
            inverse=like.new_zeros(batch, size, size, dtype=exact),
            change_change=like.new_zeros(batch, size, size, dtype=exact),
            curvature=like.new_zeros(batch, size, dtype=exact),
            scale=like.new_ones(batch),
            count=like.new_zeros(batch, dtype=torch.long),
        )

    def clear(self) -> None:
        """As new."""
        for each in self.whole.values():
            each.zero_()
        self.whole["scale"].fill_(1)
        self.first(len(self.whole["count"]))

    def direction(self, step: Tensor, change: Tensor, gradient: Tensor, used: int) -> Tensor:
        """Remember the last step and the change of the gradient along it; minus the inverse Hessian times the gradient.

        With D the diagonal of R, the two loops of torch are
            R alpha = -S g,     R' beta = D alpha + h (Y g + Y Y' alpha),     d = -h g - h Y' alpha + S' beta.

        Args:
            step, change, gradient: (B, N). A pair of too little curvature is not remembered.
            used: slots that are looked at, at least as many as there are pairs, with this one; empty ones do no harm.

        Returns:
            d (B, N).
        """
        filled = slice(0, used)
        against_steps, against_changes = self._append(filled, step, change, gradient)
        inverse, scale = self.inverse[:, filled, filled], self.scale[:, None]
        alpha = -_apply(inverse, against_steps)
        right = against_changes + _apply(self.change_change[:, filled, filled], alpha)
        beta = _apply(inverse.mT, self.curvature[:, filled] * alpha + scale * right)
        stepped = self._combine(beta, self.steps[:, :, filled])
        return stepped - scale * (gradient + self._combine(alpha, self.changes[:, :, filled]))

    def _append(self, filled: slice, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Remember a pair; S g and Y g, (B, used) each, which cost nothing beside the products that remembering takes.

        The long vectors are what takes the time: both products with each of them come from one look at it.
        """
        curvature = (step * change).sum(1)
        accept = curvature > CURVATURE
        row, slot = torch.arange(len(step), device=step.device), self.count % self.size
        for buffer, vector in ((self.steps, step), (self.changes, change)):
            buffer[row, :, slot] = torch.where(accept[:, None, None], self._in_pieces(vector), buffer[row, :, slot])
        self.scale.copy_(torch.where(accept, curvature / change.square().sum(1), self.scale))
        self.count += accept

        vectors = torch.stack([self._in_pieces(change), self._in_pieces(gradient)], 2)  # (B, pieces, 2, length)
        (step_change, step_gradient), (change_change, change_gradient) = (
            torch.matmul(buffer[:, :, filled], vectors.mT).sum(1).to(self.inverse.dtype).unbind(2)
            for buffer in (self.steps, self.changes)
        )
        here = (torch.arange(filled.stop, device=step.device) == slot[:, None]) & accept[:, None]  # (B, used)
        in_row, in_column = here[:, :, None], here[:, None, :]
        inverse, products = self.inverse[:, filled, filled], self.change_change[:, filled, filled]
        inverse.masked_fill_(in_row | in_column, 0)  # the pair that was here before
        pivot = (step_change * here).sum(1, keepdim=True)
        column = torch.where(here, 1, -_apply(inverse, step_change)) / pivot
        inverse.copy_(torch.where(in_column, column[:, :, None], inverse))
        products.copy_(torch.where(in_row, change_change[:, None, :], products))
        products.copy_(torch.where(in_column, change_change[:, :, None], products))
        self.curvature[:, filled] = torch.where(here, pivot, self.curvature[:, filled])
        return step_gradient, change_gradient

    def _in_pieces(self, vectors: Tensor) -> Tensor:
        """(B, N) -> (B, pieces, length of a piece), zeros behind the last."""
        pieces, length = self.steps.shape[1], self.steps.shape[3]
        if missing := pieces * length - self.length:
            vectors = functional.pad(vectors, (0, missing))
        return vectors.reshape(len(vectors), pieces, length)

    def _combine(self, weights: Tensor, vectors: Tensor) -> Tensor:
        """The sum of a buffer's vectors (B, pieces, used, length) with weights (B, used): (B, N)."""
        rows = weights.to(vectors.dtype)[:, None, None, :]  # (B, 1, 1, used)
        return torch.matmul(rows, vectors).flatten(1)[:, : self.length]


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(B, M, M), (B, M) -> (B, M)."""
    return torch.matmul(matrices, vectors[:, :, None]).squeeze(2)
