"""What L-BFGS remembers of a batch of problems, and the inverse Hessian that this represents."""

from collections.abc import Hashable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from perceptual_lib.core.graphs import SPARE, Recorder, full_size, records, stream_of

CURVATURE = 1e-10  # as in torch, only a pair whose step times gradient change is above is remembered
PIECE = 256  # the most numbers in a piece of a long vector on a GPU


class History:
    """The remembered pairs of each problem.

    Steps S and gradient changes Y lie in a ring buffer of M slots, filled for each problem separately: a pair of too
    little curvature is not remembered, and each problem forgets its own oldest pair. Two matrices of products are kept,
    (B, M, M), in float64 (on MPS float32): Y Y', and the inverse of R, the part of S Y' where the step is no younger
    than the change. Their rows and columns are in the order of the slots, and zero for empty slots. A new pair adds a
    column to R and to its inverse; the latter is computed from the former. The oldest pair takes its row and column
    away. A pair that is not remembered is written to an extra slot that is never read, so nothing waits for the device.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self.kind = self.kind_of(like, size)
        batch, self.length = like.shape
        self.size = size
        self.used = 0  # upper bound, known without asking the device, of the slots that hold a pair
        # (B, pieces, M + 1, 2, length of a piece), each step beside its change: a GPU multiplies the pieces of a long
        # vector in parallel.
        fewest = 1 if like.device.type == "cpu" else -(-self.length // PIECE)
        even = (pieces for pieces in range(fewest, 2 * fewest) if self.length % pieces == 0)  # to pad nothing
        pieces = next(even, fewest)
        self.pairs = like.new_zeros(batch, pieces, size + 1, 2, -(-self.length // pieces))
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        self.inverse = like.new_zeros(batch, size + 1, size + 1, dtype=exact)
        self.change_change = torch.zeros_like(self.inverse)
        self.curvature = like.new_zeros(batch, size + 1, dtype=exact)  # the diagonal of R
        self.scale = like.new_ones(batch, 1)  # of the initial inverse Hessian, h
        self.count = like.new_zeros(batch, dtype=torch.long)  # pairs ever remembered
        self.whole = {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}
        self.record = Recorder()

    @classmethod
    def borrow(cls, like: Tensor, size: int) -> "History":
        """An empty history; on a GPU one of this kind that has been given back, if there is one."""
        history: History = SPARE.pop(cls.kind_of(like, size), None) or cls(like, size)
        return history

    @staticmethod
    def kind_of(like: Tensor, size: int) -> Hashable:
        return like.shape, like.dtype, stream_of(like.device), size

    def give_back(self) -> None:
        """Let the history be borrowed again; do not use it afterwards."""
        if records(self.count.device):
            vars(self).update(self.whole, used=0)
            for each in self.whole.values():
                each.zero_()
            self.scale.fill_(1)
            SPARE.clear()  # even one takes much memory
            SPARE[self.kind] = self

    def keep(self, rows: Tensor) -> None:
        """Reduce to these problems, in ascending order. This is done in place, as recorded graphs read this memory, and
        a copy of the long vectors would double it."""
        for name in self.whole:
            each = getattr(self, name)
            if each is self.pairs:
                for target, source in enumerate(rows.tolist()):
                    if target != source:
                        each[target] = each[source]
            else:
                each[: len(rows)] = each[rows]
            setattr(self, name, each[: len(rows)])

    def direction(self, step: Tensor, change: Tensor, gradient: Tensor) -> Tensor:
        """Remember the last step and the gradient's change along it; return minus inverse Hessian times gradient.

        All are (B, N). With D the diagonal of R, and h the scale of the initial inverse Hessian, torch's two loops are
            R alpha = -S g,     R' beta = D alpha + h (Y g + Y Y' alpha),     d = -h g - h Y' alpha + S' beta.
        """
        self.used = min(self.used + 1, self.size)
        used = self.used
        if records(step.device):  # empty slots do no harm, and a few sizes need only a few graphs
            used = min(self.size, max(8, full_size(used, step.device)))
        (direction,) = self.record(used, partial(self._direction, used), step, change, gradient)
        return direction

    def _direction(self, used: int, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor]:
        against_steps, against_changes = self._append(used, step, change, gradient)
        inverse, products = self.inverse[:, :used, :used], self.change_change[:, :used, :used]
        alpha = _apply(inverse, against_steps)  # minus the alpha of the equations
        right = self.scale * (against_changes - _apply(products, alpha))
        beta = _apply(inverse.mT, torch.addcmul(right, self.curvature[:, :used], alpha, value=-1))
        weights = torch.stack([beta, self.scale * alpha], 2).to(step.dtype)  # (B, used, 2)
        combined = torch.matmul(weights.view(len(step), 1, 1, -1), self._vectors(used))
        combined = combined.flatten(1)[:, : self.length]
        return (torch.addcmul(combined, self.scale, gradient, value=-1),)

    def _append(self, used: int, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Remember a pair; return S g and Y g, (B, used) each. Long vectors are read once for all their products."""
        step, change, gradient = (self._in_pieces(each) for each in (step, change, gradient))
        pair, vectors = torch.stack([step, change], 2), torch.stack([change, gradient], 2)
        curvature, square = (pair * change[:, :, None]).sum((1, 3)).split(1, 1)  # (B, 1) each
        accept = curvature > CURVATURE
        row = torch.arange(len(pair), device=pair.device)
        slot = torch.where(accept[:, 0], self.count % self.size, self.size)
        self.pairs[row, :, slot] = pair
        self.scale.copy_(torch.where(accept, curvature / square, self.scale))
        self.count += accept[:, 0]

        products = torch.matmul(self._vectors(used), vectors.mT).sum(1, dtype=self.inverse.dtype)  # (B, 2 used, 2)
        of_change, of_gradient = products.unflatten(1, (used, 2)).unbind(3)  # products with steps, with changes
        step_change, change_change = of_change.unbind(2)
        here = torch.arange(used, device=pair.device) == slot[:, None]  # (B, used)
        inverse = self.inverse[:, :used, :used]
        inverse.masked_fill_(here[:, :, None] | here[:, None, :], 0)  # forget the pair that was here before
        column = (here.to(inverse.dtype) - _apply(inverse, step_change)) / curvature
        self.inverse[:, :used][row, :, slot] = column
        self.change_change[:, :used][row, :, slot] = change_change
        self.change_change[:, :, :used][row, slot] = change_change
        self.curvature[row, slot] = curvature[:, 0].to(inverse.dtype)
        step_gradient, change_gradient = of_gradient.unbind(2)
        return step_gradient, change_gradient

    def _vectors(self, used: int) -> Tensor:
        """(B, pieces, 2 used, length of a piece)."""
        return self.pairs[:, :, :used].flatten(2, 3)

    def _in_pieces(self, vectors: Tensor) -> Tensor:
        """(B, N) -> (B, pieces, length of a piece), with zeros at the end of the last piece."""
        pieces, length = self.pairs.shape[1], self.pairs.shape[4]
        if missing := pieces * length - self.length:
            vectors = functional.pad(vectors, (0, missing))
        return vectors.reshape(len(vectors), pieces, length)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Each problem's matrix times its vector: (B, M, M), (B, M) -> (B, M)."""
    return torch.matmul(matrices, vectors[:, :, None]).squeeze(2)
