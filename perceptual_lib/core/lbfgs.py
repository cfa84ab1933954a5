"""L-BFGS over a batch of independent problems, each taking the very steps of `torch.optim.LBFGS`.

The reference is torch's optimizer without line search. What it does for one problem with a loop over its history,
this does for all problems at once with matrix products, in the compact form of Byrd, Nocedal and Schnabel
("Representations of quasi-Newton matrices", 1994): the two loops become two triangular systems no larger than the
history, and the long vectors are read twice instead of written a hundred times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CURVATURE = 1e-10  # torch's least product of step and gradient change for a pair to be remembered


class Problems(Protocol):
    """A batch of independent minimization problems."""

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) and gradients (B, N) at points (B, N)."""

    def keep(self, rows: Tensor) -> None:
        """Reduce the batch to the problems at these rows, in this order; their points come alone from now on."""


@dataclass(frozen=True)
class Minimum:
    """Where each problem's iteration ended.

    Attributes:
        points: (B, N), the last iterate; the one with the lowest loss where the iteration broke down.
        evaluations: (B,) int64, losses with gradients computed for the problem.
        converged: (B,) bool, one of the tolerances was met.
        failed: (B,) bool, NaN or infinity turned up.
    """

    points: Tensor
    evaluations: Tensor
    converged: Tensor
    failed: Tensor


def minimize(
    problems: Problems,
    start: Tensor,
    *,
    max_iter: int = 200,
    history_size: int = 100,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    at_start: tuple[Tensor, Tensor] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Minimum:
    """Minimize each problem from its row of `start`.

    A problem that has converged or failed keeps its point from then on and leaves the batch at the next look
    (see `look_every`).

    Args:
        problems: the losses and their gradients.
        start: (B, N) starting points; left as they are.
        max_iter: most steps; as in torch, at most 1.25 max_iter evaluations (this matters below 4 steps).
        history_size: pairs of steps and gradient changes remembered.
        tolerance_grad: converged when no entry of the gradient is larger.
        tolerance_change: converged when the step's largest entry, the change of the loss, or the slope is below.
        at_start: losses and gradients at `start` where they are known; they count as an evaluation all the same.
        callback: called as `callback(step, rows, points)` at the start (step 0) and after each step, with the
            indices of the problems still in the batch and their points.
    """
    ended = Minimum(
        start.clone(),
        torch.ones(len(start), dtype=torch.long, device=start.device),
        *(torch.zeros(len(start), dtype=torch.bool, device=start.device) for _ in range(2)),
    )
    rows = torch.arange(len(start), device=start.device)
    points = start.clone()
    loss, gradient = problems.evaluate(points) if at_start is None else at_start
    largest = gradient.abs().amax(1)  # nan or infinity where one entry is
    finite = loss.isfinite() & largest.isfinite()
    ended.failed[:] = ~finite
    ended.converged[:] = finite & (largest <= tolerance_grad)
    best, best_loss = points.clone(), torch.where(finite, loss, torch.inf)
    live = finite & ~ended.converged
    history = History(points, min(history_size, max(1, max_iter - 1)))
    if callback:
        callback(0, rows, points)

    scale = (1 / gradient.abs().sum(1)).clamp(max=1)  # of torch's first step
    move, slope = -scale[:, None] * gradient, -gradient.square().sum(1)
    for step in range(1, max_iter + 1):
        downhill = ~(slope > -tolerance_change)  # a NaN slope goes on, to be found out at the next evaluation
        ended.converged[rows] |= live & ~downhill
        live = live & downhill
        if (step - 1) % look_every(start.device) == 0:
            kept = live.nonzero().squeeze(1)
            if len(kept) == 0:
                break
            if len(kept) < len(rows):
                ended.points[rows] = points
                problems.keep(kept)
                history.keep(kept)
                rows, points, move, loss, gradient, best, best_loss, live = (
                    tensor[kept] for tensor in (rows, points, move, loss, gradient, best, best_loss, live)
                )
        points = torch.where(live[:, None], points + move, points)

        # torch does not look at the point after its last step; here a breakdown there must be seen too.
        new_loss, new_gradient = problems.evaluate(points)
        ended.evaluations[rows] += live
        largest = new_gradient.abs().amax(1)
        finite = new_loss.isfinite() & largest.isfinite()
        broken = live & ~finite
        ended.failed[rows] |= broken
        points = torch.where(broken[:, None], best, points)
        better = live & finite & (new_loss < best_loss)
        best = torch.where(better[:, None], points, best)
        best_loss = torch.where(better, new_loss, best_loss)
        live = live & finite
        if callback:
            callback(step, rows, points)
        if step == max_iter or step + 1 >= max_iter * 5 // 4:
            break

        done = (
            (largest <= tolerance_grad)
            | (move.abs().amax(1) <= tolerance_change)
            | ((new_loss - loss).abs() < tolerance_change)
        )
        ended.converged[rows] |= live & done
        live = live & ~done
        with torch.autocast(start.device.type, enabled=False):  # a caller's is meant for the network
            move = history.direction(move, new_gradient - gradient, new_gradient)
        slope = (new_gradient * move).sum(1)
        loss, gradient = new_loss, new_gradient

    ended.points[rows] = points
    return ended


def look_every(device: torch.device) -> int:
    """Steps between two looks at which problems have ended; on an accelerator each look waits for the device."""
    return 1 if device.type == "cpu" else 10


class History:
    """The remembered pairs of each problem, and the inverse Hessian that they stand for.

    steps S and changes Y are (B, M, N) ring buffers, filled per problem: a pair of too little curvature is not
    remembered, and each problem forgets its own oldest. Their products S Y' and Y Y' are (B, M, M), float64 but on MPS.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        batch, length = like.shape
        self.size = size
        self.used = 0  # slots that hold a pair of some problem; an upper bound that needs no look at the device
        self.count = torch.zeros(batch, dtype=torch.long, device=like.device)  # pairs ever remembered
        self.steps = like.new_zeros(batch, size, length)
        self.changes = like.new_zeros(batch, size, length)
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        self.step_change = like.new_zeros(batch, size, size, dtype=exact)
        self.change_change = torch.zeros_like(self.step_change)
        self.diagonal = torch.ones(batch, dtype=like.dtype, device=like.device)  # of the first inverse Hessian

    def keep(self, rows: Tensor) -> None:
        """Reduce to these problems. The buffers are moved up in place: a copy would double the memory at its peak."""
        for target, source in enumerate(rows.tolist()):
            if target != source:
                self.steps[target] = self.steps[source]
                self.changes[target] = self.changes[source]
        self.steps, self.changes = self.steps[: len(rows)], self.changes[: len(rows)]
        self.count, self.diagonal = self.count[rows], self.diagonal[rows]
        self.step_change, self.change_change = self.step_change[rows], self.change_change[rows]

    def direction(self, step: Tensor, change: Tensor, gradient: Tensor) -> Tensor:
        """Remember the last step and the change of the gradient along it; minus the inverse Hessian times the gradient.

        With the pairs in order of age, R the upper triangle of S Y' and D its diagonal, the two loops of torch are
            R alpha = -S g,     R' beta = D alpha + h (Y g + Y Y' alpha),     d = -h g - h Y' alpha + S' beta.

        Args:
            step, change, gradient: (B, N). A pair of too little curvature is not remembered.

        Returns:
            d (B, N).
        """
        against_steps, against_changes = self._append(step, change, gradient)
        steps, changes, scale = self.steps[:, : self.used], self.changes[:, : self.used], self.diagonal[:, None]
        by_age = self._by_age()
        row = torch.arange(len(gradient), device=gradient.device)[:, None]
        square = (row[:, :, None], by_age[:, :, None], by_age[:, None, :])
        upper = self.step_change[square].triu()
        diagonal = upper.diagonal(dim1=1, dim2=2)
        empty = torch.arange(self.used, device=gradient.device) >= self.count[:, None]
        diagonal += empty  # an empty slot stands for the equation alpha = 0
        alpha = torch.linalg.solve_triangular(upper, -against_steps[row, by_age][:, :, None], upper=True)
        right = against_changes[row, by_age][:, :, None] + self.change_change[square] @ alpha
        right = diagonal[:, :, None] * alpha + scale[:, :, None] * right
        beta = torch.linalg.solve_triangular(upper.mT, right, upper=False)
        weights = torch.stack([alpha.squeeze(2), beta.squeeze(2)]).to(gradient.dtype)
        alpha, beta = torch.empty_like(weights).scatter_(2, by_age.expand(2, -1, -1), weights)
        return -scale * (gradient + _combine(alpha, changes)) + _combine(beta, steps)

    def _append(self, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Remember a pair; S g and Y g, (B, used) each, which cost nothing beside the products that remembering takes.

        The long vectors are what takes the time: both products with each of them come from one look at it.
        """
        curvature = (step * change).sum(1)
        accept = curvature > CURVATURE
        row, slot = torch.arange(len(step), device=step.device), self.count % self.size
        self.steps[row, slot] = torch.where(accept[:, None], step, self.steps[row, slot])
        self.changes[row, slot] = torch.where(accept[:, None], change, self.changes[row, slot])
        self.diagonal = torch.where(accept, curvature / change.square().sum(1), self.diagonal)
        self.used = min(self.used + 1, self.size)
        used = slice(0, self.used)
        vectors = torch.stack([change, gradient], 1)  # (B, 2, N)
        against_gradient = []
        for buffer, products in ((self.steps, self.step_change), (self.changes, self.change_change)):
            with_change, with_gradient = _products(buffer[:, used], vectors).to(products.dtype)
            products[row, used, slot] = torch.where(accept[:, None], with_change, products[row, used, slot])
            against_gradient.append(with_gradient)
        self.change_change[row, slot] = self.change_change[row, :, slot]
        self.count = self.count + accept
        return tuple(against_gradient)

    def _by_age(self) -> Tensor:
        """(B, used) slots from the oldest pair to the newest; the empty ones come last."""
        oldest = torch.where(self.count > self.size, self.count % self.size, 0)
        return (oldest[:, None] + torch.arange(self.used, device=oldest.device)) % max(1, self.used)


def _products(vectors: Tensor, others: Tensor) -> Tensor:
    """(B, M, N), (B, K, N) -> (K, B, M)."""
    return torch.matmul(vectors, others.mT).permute(2, 0, 1)


def _combine(weights: Tensor, vectors: Tensor) -> Tensor:
    """(B, M), (B, M, N) -> (B, N)."""
    return torch.matmul(weights[:, None, :], vectors).squeeze(1)
