"""L-BFGS over a batch of independent problems, each taking the very steps of `torch.optim.LBFGS`.

The reference is torch's optimizer without line search. What it does for one problem with a loop over its history,
this does for all problems at once with matrix products, in the compact form of Byrd, Nocedal and Schnabel
("Representations of quasi-Newton matrices", 1994): the two loops become products with matrices no larger than the
history, and the long vectors are read twice instead of written a hundred times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.graphs import Recorder, give_spare, take_spare
from perceptual_lib.core.history import Buffers, History
from perceptual_lib.core.losses import Differentiated, Losses, kind
from perceptual_lib.core.precision import computing


@runtime_checkable
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
    problems: Problems | Losses,
    start: Tensor,
    *,
    max_iter: int = 200,
    history_size: int = 100,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    at_start: tuple[Tensor, Tensor] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Minimum:
    """Minimize independent problems at once, each from its row of `start`.

    But for rounding, each takes the very steps of `torch.optim.LBFGS` without line search, computed as Byrd, Nocedal
    and Schnabel (1994) do. One that has converged or failed keeps its point from then on and leaves the batch at the
    next look (see `look_every`).

    Args:
        problems: a function `losses(points, rows)` of torch operations, which autograd differentiates: from points
            (B, N) and the indices (B,) in `start` of the problems that they belong to, to the losses (B,). Or an object
            that computes its gradients itself: see `Problems`.
        start: (B, N) floating-point starting points; left as they are.
        max_iter: most steps; as in torch, at most 1.25 max_iter evaluations (this matters below 4 steps).
        history_size: pairs of steps and gradient changes remembered.
        tolerance_grad: converged when no entry of the gradient is larger.
        tolerance_change: converged when the step's largest entry, the change of the loss, or the slope is below.
        at_start: losses and gradients at `start` where they are known; they count as an evaluation all the same.
        callback: called as `callback(step, rows, points)` at the start (step 0) and after each step, with the
            indices of the problems still in the batch and their points.

    Raises:
        InputError: a `start` that is no floating-point (B, N), or losses of another shape or without a gradient.
    """
    if not (isinstance(start, Tensor) and start.is_floating_point() and start.ndim == 2 and 0 not in start.shape):
        raise InputError(f"start must be a floating-point tensor (B, N), not {kind(start)}.")
    if not isinstance(problems, Problems):
        problems = Differentiated(problems, start)
    start = start.detach()
    size = min(history_size, max(1, max_iter - 1))
    loss, gradient = problems.evaluate(start.clone()) if at_start is None else at_start
    descent = Descent.borrow(start, size, tolerance_grad, tolerance_change)
    descent.begin(start, loss, gradient)
    ended = Minimum(start.clone(), *(each.clone() for each in (descent.evaluations, descent.converged, descent.failed)))
    if callback:
        callback(0, descent.rows.clone(), start.clone())
    trial = descent.trial.clone()
    for step in range(1, max_iter + 1):
        if (step - 1) % look_every(start.device) == 0:
            count = int(descent.live.sum())
            if count == 0:
                break
            if (fewer := full_size(count, start.device)) < len(descent.rows):
                descent.write(ended)
                kept = (~descent.live).byte().argsort(stable=True)[:fewer].sort().values  # those that live, and others
                problems.keep(kept)
                descent.keep(kept)
                trial = descent.trial.clone()
        # torch does not look at the point after its last step; here a breakdown there must be seen too.
        last = step == max_iter or step + 1 >= max_iter * 5 // 4
        trial = descent.step(min(step, size), last, *problems.evaluate(trial))
        if callback:
            callback(step, descent.rows.clone(), descent.points.clone())
        if last:
            break
    descent.write(ended)
    descent.give_back()
    return ended


def look_every(device: torch.device) -> int:
    """Steps between two looks at which problems have ended; on an accelerator each look waits for the device."""
    return 1 if device.type == "cpu" else 10


def full_size(count: int, device: torch.device) -> int:
    """Problems that a batch has while `count` are being solved: on an accelerator, which plans anew for each size of a
    batch, the next power of two; what is more are problems that have ended."""
    return count if device.type == "cpu" else 1 << (count - 1).bit_length()


class Descent(Buffers):
    """Where a batch of problems is between two evaluations; on a GPU a step is recorded.

    points: (B, N), the last that were evaluated, trial: those that will be next, move: what lies between;
    loss, gradient: at the points; best, best_loss: the least so far; live: being solved; the others as in `Minimum`.
    """

    points: Tensor
    trial: Tensor
    move: Tensor
    gradient: Tensor
    best: Tensor
    loss: Tensor
    best_loss: Tensor
    live: Tensor
    converged: Tensor
    failed: Tensor
    evaluations: Tensor
    rows: Tensor  # in the start

    def __init__(self, like: Tensor, size: int, tolerance_grad: float, tolerance_change: float) -> None:
        batch = len(like)
        self.kind = like.shape, like.dtype, like.device, size, tolerance_grad, tolerance_change
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.history = History(like, size)
        self.record = Recorder(graphs=32)  # for some sizes of the batch and some numbers of pairs
        super().__init__(
            **{name: torch.zeros_like(like) for name in ("points", "trial", "move", "gradient", "best")},
            **{name: like.new_zeros(batch) for name in ("loss", "best_loss")},
            **{name: like.new_zeros(batch, dtype=torch.bool) for name in ("live", "converged", "failed")},
            **{name: like.new_zeros(batch, dtype=torch.long) for name in ("evaluations", "rows")},
        )

    @classmethod
    def borrow(cls, like: Tensor, *settings: Any) -> "Descent":
        """A new one; where steps are recorded, one whose steps are, if there is such a one."""
        found: Descent = take_spare((like.shape, like.dtype, like.device, *settings)) or cls(like, *settings)
        return found

    def give_back(self) -> None:
        """For the next batch of this kind. Use it no more."""
        if self.record.records(self.rows.device):
            self.history.clear()
            self.first(len(self.whole["rows"]))
            give_spare(self.kind, self)

    def begin(self, start: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """All problems, evaluated at their start."""
        self.rows.copy_(torch.arange(len(start)))
        self.points.copy_(start)
        self.best.copy_(start)
        self.loss.copy_(loss)
        self.gradient.copy_(gradient)
        self.evaluations.fill_(1)
        largest = gradient.abs().amax(1)  # nan or infinity where one entry is
        finite = loss.isfinite() & largest.isfinite()
        self.failed.copy_(~finite)
        self.converged.copy_(finite & (largest <= self.tolerance_grad))
        self.best_loss.copy_(torch.where(finite, loss, torch.inf))
        self.live.copy_(finite & ~self.converged)
        scale = (1 / gradient.abs().sum(1)).clamp(max=1)  # of torch's first step
        self._set_off(-scale[:, None] * gradient, -gradient.square().sum(1))

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.history.keep(rows)

    def write(self, ended: Minimum) -> None:
        """Where its problems are."""
        for name, all_of_them in vars(ended).items():
            all_of_them[self.rows] = getattr(self, name)

    def step(self, pairs: int, last: bool, loss: Tensor, gradient: Tensor) -> Tensor:
        """The next trial points, from an evaluation at those before. `pairs` are remembered by then, at most; after the
        last step no further one is prepared."""
        if self.record.records(self.rows.device):  # some more slots than pairs, and then a few graphs do for all steps
            pairs = min(self.history.size, max(8, full_size(pairs, self.rows.device)))
        (trial,) = self.record((pairs, last), partial(self._step, pairs, last), loss, gradient)
        return trial

    def _step(self, pairs: int, last: bool, loss: Tensor, gradient: Tensor) -> tuple[Tensor]:
        self.evaluations += self.live
        largest = gradient.abs().amax(1)
        finite = loss.isfinite() & largest.isfinite()
        broken = self.live & ~finite
        self.failed |= broken
        torch.where(broken[:, None], self.best, self.trial, out=self.points)
        better = self.live & finite & (loss < self.best_loss)
        self.best.copy_(torch.where(better[:, None], self.points, self.best))
        self.best_loss.copy_(torch.where(better, loss, self.best_loss))
        self.live &= finite
        if last:
            return (self.trial,)
        done = (
            (largest <= self.tolerance_grad)
            | (self.move.abs().amax(1) <= self.tolerance_change)
            | ((loss - self.loss).abs() < self.tolerance_change)
        )
        self.converged |= self.live & done
        self.live &= ~done
        # A caller's precision is meant for the network.
        with torch.autocast(loss.device.type, enabled=False), computing("full", loss.device):
            move = self.history.direction(self.move, gradient - self.gradient, gradient, pairs)
        self.loss.copy_(loss)
        self.gradient.copy_(gradient)
        self._set_off(move, (gradient * move).sum(1))
        return (self.trial,)

    def _set_off(self, move: Tensor, slope: Tensor) -> None:
        downhill = ~(slope > -self.tolerance_change)  # a NaN slope goes on, to be found out at the next evaluation
        self.converged |= self.live & ~downhill
        self.live &= downhill
        self.move.copy_(move)
        torch.where(self.live[:, None], self.points + self.move, self.points, out=self.trial)
