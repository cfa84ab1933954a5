"""L-BFGS over a batch of independent problems, each taking the very steps of `torch.optim.LBFGS` without line search.

Torch loops over the history of one problem. Here matrix products do this for all problems at once, in the compact form
of Byrd, Nocedal and Schnabel ("Representations of quasi-Newton matrices", 1994): matrices are no larger than the
history, and the long vectors are read twice instead of written a hundred times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from perceptual_lib.core.calling import kind_of, with_gradient
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.graphs import full_size
from perceptual_lib.core.history import History
from perceptual_lib.core.precision import computing

Losses = Callable[[Tensor, Tensor], Tensor]
"""Of points (B, N) and the numbers (B,) of the problems that they belong to: the losses (B,)."""


@runtime_checkable
class Problems(Protocol):
    """A batch of independent minimization problems."""

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) and gradients (B, N) at points (B, N), in new tensors each time."""

    def keep(self, rows: Tensor) -> None:
        """Reduce the batch to the problems at these rows, in this order; only their points come from now on."""


class Differentiated:
    """`Problems` with a loss function that autograd differentiates. It is told which original problems are left."""

    def __init__(self, losses: Losses, start: Tensor) -> None:
        self.losses = losses
        self.rows = torch.arange(len(start), device=start.device)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        otherwise = "losses must be computed from the points by torch operations that have a gradient."
        return with_gradient(self._checked, points, self.rows, otherwise=otherwise)

    def _checked(self, points: Tensor, rows: Tensor) -> Tensor:
        losses = self.losses(points, rows)
        if not isinstance(losses, Tensor) or losses.shape != rows.shape:
            raise InputError(f"losses must be a tensor of shape ({len(points)},), not {kind_of(losses)}.")
        return losses

    def keep(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]


@dataclass(frozen=True)
class Minimum:
    """Where each problem's iteration ended."""

    points: Tensor  #: (B, N), the last iterate; the one with the lowest loss where the iteration broke down
    evaluations: Tensor  #: (B,) int64, losses with gradients computed for the problem
    converged: Tensor  #: (B,) bool, whether one of the tolerances was met
    failed: Tensor  #: (B,) bool, whether NaN or infinity turned up


@torch.inference_mode(False)
def minimize(
    problems: Problems | Losses,
    start: Tensor,
    *,
    max_iter: int = 200,
    history_size: int = 100,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    at_start: tuple[Tensor, Tensor] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    enough: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Minimum:
    """Minimize independent problems at once, each from its row of `start`, as `torch.optim.LBFGS` does.

    A problem that has converged or failed keeps its point from then on and leaves the batch; on a GPU not at once, and
    some stay to fill the batch up to a power of two.

    Args:
        problems: a function `losses(points, rows)` of torch operations, which autograd differentiates. It gets points
            (B, N) and the indices (B,) in `start` of their problems, and returns the losses (B,). Or an object that
            computes its gradients itself: see `Problems`.
        start: (B, N) floating-point starting points; left as they are.
        max_iter: the largest number of steps. As in torch, 1.25 max_iter also limits evaluations (it matters below 4).
        history_size: how many pairs of a step and a gradient change are remembered.
        tolerance_grad: converged when no entry of the gradient is larger in magnitude.
        tolerance_change: converged when the step's largest entry, the change of the loss, or the slope is below.
        at_start: losses and gradients at `start` where they are known; they count as an evaluation all the same.
        callback: `callback(step, rows, points)` at the start (step 0) and after each step, with the indices of the
            problems still in the batch and their points.
        enough: a tolerance of one's own: `enough(step, rows, points)` gets the same as `callback` after each step but
            the last, and returns (B,) bool, whether each problem has converged.

    Raises InputError for a `start` that is no floating-point (B, N), losses of another shape or without a gradient, or
    no history.
    """
    if not (isinstance(start, Tensor) and start.is_floating_point() and start.ndim == 2 and 0 not in start.shape):
        raise InputError(f"start must be a floating-point tensor (B, N), not {kind_of(start)}.")
    if not isinstance(problems, Problems):
        problems = Differentiated(problems, start)
    if history_size < 1:
        raise InputError(f"history_size must be at least 1, not {history_size}.")
    start = start.detach()
    device = start.device
    ended = Minimum(
        start.clone(),
        torch.ones(len(start), dtype=torch.long, device=device),
        *(torch.zeros(len(start), dtype=torch.bool, device=device) for _ in range(2)),
    )
    rows = torch.arange(len(start), device=device)
    points = start.clone()
    loss, gradient = at_start or problems.evaluate(points)
    largest = _largest(gradient)
    evaluations, failed = ended.evaluations.clone(), ~_finite(loss, largest)
    live = ~failed & (largest > tolerance_grad)  # the others have failed or converged
    best, best_loss = points.clone(), torch.where(failed, torch.inf, loss)
    history = History.borrow(points, min(history_size, max(1, max_iter - 1)))
    if callback:
        callback(0, rows, points)

    def write() -> None:
        ended.points[rows], ended.evaluations[rows] = points, evaluations
        ended.failed[rows], ended.converged[rows] = failed, ~(live | failed)

    scale = (1 / gradient.abs().sum(1)).clamp(max=1)  # torch scales its first step so
    move, slope = -scale[:, None] * gradient, -gradient.square().sum(1)
    for step in range(1, max_iter + 1):
        live &= ~(slope > -tolerance_change)  # with a NaN slope it goes on: the next evaluation notices
        if (step - 1) % look_every(device) == 0:
            count = int(live.sum())
            if count == 0:
                break
            if (size := full_size(count, device)) < len(rows):
                write()
                kept = (~live).byte().argsort(stable=True)[:size].sort().values  # live problems, and others to fill up
                problems.keep(kept)
                history.keep(kept)
                rows, points, move, loss, gradient, best, best_loss, live, failed, evaluations = (
                    each[kept]
                    for each in (rows, points, move, loss, gradient, best, best_loss, live, failed, evaluations)
                )
        points = torch.where(live[:, None], points + move, points)

        # Torch does not evaluate the point after its last step; here a breakdown at that point must be noticed, too.
        new_loss, new_gradient = problems.evaluate(points)
        evaluations += live
        largest = _largest(new_gradient)
        broken = live & ~_finite(new_loss, largest)
        failed |= broken
        live &= ~broken
        points = torch.where(broken[:, None], best, points)
        better = live & (new_loss < best_loss)
        best = torch.where(better[:, None], points, best)
        best_loss = torch.where(better, new_loss, best_loss)
        if callback:
            callback(step, rows, points)
        if step == max_iter or step + 1 >= max_iter * 5 // 4:
            break

        done = largest <= tolerance_grad
        done |= (_largest(move) <= tolerance_change) | ((new_loss - loss).abs() < tolerance_change)
        if enough:
            done |= enough(step, rows, points)
        live &= ~done
        # The precision that a caller chose is meant for the network, not for this.
        with torch.autocast(device.type, enabled=False), computing("full", device):
            move = history.direction(move, new_gradient - gradient, new_gradient.detach())
        slope = (new_gradient * move).sum(1)
        loss, gradient = new_loss, new_gradient

    # Problems that are still live have used up their steps.
    write()
    history.give_back()
    return ended


def _largest(vectors: Tensor) -> Tensor:
    """(B, N) -> (B,), the largest magnitude in each row; NaN where the row holds one."""
    largest: Tensor = torch.linalg.vector_norm(vectors, torch.inf, dim=1)
    return largest


def _finite(losses: Tensor, largest: Tensor) -> Tensor:
    """(B,) bool, whether a loss (B,) and the largest entry of its gradient (B,) are both finite."""
    return torch.maximum(losses.abs(), largest) < torch.inf


def look_every(device: torch.device) -> int:
    """Every how many steps to check which problems have ended; on an accelerator each check waits for the device."""
    return 1 if device.type == "cpu" else 10
