"""What L-BFGS remembers of a batch of problems, and the inverse Hessian that it stands for."""

from collections.abc import Hashable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from perceptual_lib.core.graphs import SPARE, Recorder, full_size, records, stream_of

CURVATURE = 1e-10  # torch's least product of step and gradient change for a pair to be remembered
PIECE = 2048  # numbers of a long vector that a GPU multiplies at once


class History:
    """The remembered pairs of each problem.

    Steps S and changes Y are ring buffers of M slots, filled per problem: a pair of too little curvature is not
    remembered, and each problem forgets its own oldest. Of their products are kept, (B, M, M) and float64 but on MPS,
    Y Y' and the inverse of R, the part of S Y' where the step is no younger than the change, in the order of the slots,
    zero where one is empty. A new pair adds a column to R, and to its inverse one that is computed from it; the oldest
    pair takes its row and column along.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self.kind = self.kind_of(like, size)
        batch, self.length = like.shape
        self.size = size
        self.used = 0  # slots that hold a pair of some problem; an upper bound that needs no look at the device
        # (B, pieces, M, length of a piece): a GPU multiplies pieces of long vectors side by side.
        fewest = 1 if like.device.type == "cpu" else -(-self.length // PIECE)
        even = (pieces for pieces in range(fewest, 2 * fewest) if self.length % pieces == 0)  # nothing is to be padded
        pieces = next(even, fewest)
        self.steps = like.new_zeros(batch, pieces, size, -(-self.length // pieces))
        self.changes = torch.zeros_like(self.steps)
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        self.inverse = like.new_zeros(batch, size, size, dtype=exact)
        self.change_change = torch.zeros_like(self.inverse)
        self.curvature = like.new_zeros(batch, size, dtype=exact)  # the diagonal of R
        self.scale = like.new_ones(batch)  # of the first inverse Hessian
        self.count = like.new_zeros(batch, dtype=torch.long)  # pairs ever remembered
        self.whole = {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}
        self.record = Recorder()

    @classmethod
    def borrow(cls, like: Tensor, size: int) -> "History":
        """An empty one; on a GPU one that has served before, if there is one of this kind."""
        history: History = SPARE.pop(cls.kind_of(like, size), None) or cls(like, size)
        return history

    @staticmethod
    def kind_of(like: Tensor, size: int) -> Hashable:
        return like.shape, like.dtype, stream_of(like.device), size

    def give_back(self) -> None:
        """Let it serve again. Use it no more."""
        if records(self.count.device):
            vars(self).update(self.whole, used=0)
            for each in self.whole.values():
                each.zero_()
            self.scale.fill_(1)
            SPARE.clear()  # one is much memory
            SPARE[self.kind] = self

    def keep(self, rows: Tensor) -> None:
        """Reduce to these problems, in ascending order, in place: what is recorded reads there, and a copy of the long
        vectors would double the memory."""
        for name in self.whole:
            each = getattr(self, name)
            if each.ndim == 4:
                for target, source in enumerate(rows.tolist()):
                    if target != source:
                        each[target] = each[source]
            else:
                each[: len(rows)] = each[rows]
            setattr(self, name, each[: len(rows)])

    def direction(self, step: Tensor, change: Tensor, gradient: Tensor) -> Tensor:
        """Remember the last step and the change of the gradient along it; minus the inverse Hessian times the gradient.

        All (B, N). With D the diagonal of R, the two loops of torch are
            R alpha = -S g,     R' beta = D alpha + h (Y g + Y Y' alpha),     d = -h g - h Y' alpha + S' beta.
        """
        self.used = min(self.used + 1, self.size)
        used = self.used
        if records(step.device):  # empty slots do no harm, and then a few graphs do for all steps
            used = min(self.size, max(8, full_size(used, step.device)))
        (direction,) = self.record(used, partial(self._direction, slice(0, used)), step, change, gradient)
        return direction

    def _direction(self, used: slice, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor]:
        against_steps, against_changes = self._append(used, step, change, gradient)
        inverse, scale = self.inverse[:, used, used], self.scale[:, None]
        alpha = -_apply(inverse, against_steps)
        right = against_changes + _apply(self.change_change[:, used, used], alpha)
        beta = _apply(inverse.mT, self.curvature[:, used] * alpha + scale * right)
        stepped, changed = self._combine(beta, self.steps[:, :, used]), self._combine(alpha, self.changes[:, :, used])
        return (stepped - scale * (gradient + changed),)

    def _append(self, used: slice, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Remember a pair; S g and Y g, (B, used) each: both products with a long vector come from one look at it."""
        curvature = (step * change).sum(1)
        accept = curvature > CURVATURE
        row, slot = torch.arange(len(step), device=step.device), self.count % self.size
        for buffer, vector in ((self.steps, step), (self.changes, change)):
            buffer[row, :, slot] = torch.where(accept[:, None, None], self._in_pieces(vector), buffer[row, :, slot])
        self.scale.copy_(torch.where(accept, curvature / change.square().sum(1), self.scale))
        self.count += accept

        vectors = torch.stack([self._in_pieces(change), self._in_pieces(gradient)], 2)  # (B, pieces, 2, length)
        (step_change, step_gradient), (change_change, change_gradient) = (
            torch.matmul(buffer[:, :, used], vectors.mT).sum(1).to(self.inverse.dtype).unbind(2)
            for buffer in (self.steps, self.changes)
        )
        here = (torch.arange(used.stop, device=step.device) == slot[:, None]) & accept[:, None]  # (B, used)
        in_row, in_column = here[:, :, None], here[:, None, :]
        inverse, products = self.inverse[:, used, used], self.change_change[:, used, used]
        inverse.masked_fill_(in_row | in_column, 0)  # the pair that was here before
        pivot = (step_change * here).sum(1, keepdim=True)
        column = torch.where(here, 1, -_apply(inverse, step_change)) / pivot
        inverse.copy_(torch.where(in_column, column[:, :, None], inverse))
        products.copy_(torch.where(in_row, change_change[:, None, :], products))
        products.copy_(torch.where(in_column, change_change[:, :, None], products))
        self.curvature[:, used] = torch.where(here, pivot, self.curvature[:, used])
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
