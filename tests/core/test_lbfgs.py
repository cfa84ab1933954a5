"""The batched optimizer against torch.optim.LBFGS, one problem at a time."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from perceptual_lib import InputError, minimize
from perceptual_lib.core import lbfgs


class Convex:
    """sum_i log cosh((A x - b)_i) + ridge |x|^2: smooth, strictly convex, not quadratic."""

    def __init__(self, matrices: torch.Tensor, offsets: torch.Tensor) -> None:
        self.matrices, self.offsets = matrices, offsets
        self.batches: list[int] = []

    def evaluate(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(len(points))
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            residuals = (self.matrices @ points[:, :, None]).squeeze(2) - self.offsets
            losses = residuals.cosh().log().sum(1) + 0.01 * points.square().sum(1)
            (gradients,) = torch.autograd.grad(losses.sum(), points)
        return losses.detach(), gradients

    def keep(self, rows: torch.Tensor) -> None:
        self.matrices, self.offsets = self.matrices[rows], self.offsets[rows]


def convex_problems(scales: list[float], size: int = 30) -> tuple[Convex, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(len(scales), size, size, dtype=torch.double, generator=generator)
    matrices *= torch.tensor(scales, dtype=torch.double)[:, None, None]
    offsets = torch.randn(len(scales), size, dtype=torch.double, generator=generator)
    return Convex(matrices, offsets), torch.randn(len(scales), size, dtype=torch.double, generator=generator)


def torch_minimum(problems: Convex, row: int, start: torch.Tensor, **options) -> tuple[torch.Tensor, int]:
    alone = Convex(problems.matrices[row : row + 1], problems.offsets[row : row + 1])
    point = start[row : row + 1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], **options)

    def closure() -> torch.Tensor:
        loss, point.grad = alone.evaluate(point)
        return loss.sum()

    optimizer.step(closure)
    return point.detach()[0], len(alone.batches)


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("history_size", [3, 100])
def test_same_iterates_as_torch(max_iter: int, history_size: int) -> None:
    # The scales make problems that end after few steps and problems that do not end.
    problems, start = convex_problems([0.01, 0.1, 0.2, 0.05])
    expected = [
        torch_minimum(problems, row, start, max_iter=max_iter, history_size=history_size) for row in range(len(start))
    ]
    minimum = minimize(problems, start, max_iter=max_iter, history_size=history_size)
    for row, (point, _) in enumerate(expected):
        assert (minimum.points[row] - point).abs().max() < 1e-8
    assert not minimum.failed.any()


def test_every_iterate_is_torchs() -> None:
    problems, start = convex_problems([0.1, 0.2])
    seen = {}
    minimize(
        Convex(problems.matrices, problems.offsets),
        start,
        max_iter=20,
        callback=lambda step, rows, points: seen.update({step: points.clone()}),
    )
    for step in range(4, 20):  # below four steps torch's limit of evaluations ends it a step earlier
        for row in range(2):
            point, _ = torch_minimum(problems, row, start, max_iter=step)
            assert (seen[step][row] - point).abs().max() < 1e-8


def test_converged_problems_leave_the_batch() -> None:
    problems, start = convex_problems([0.2, 0.01, 0.1])
    counts = [torch_minimum(problems, row, start, max_iter=60)[1] for row in range(3)]
    assert counts[1] < min(counts[0], counts[2])
    minimum = minimize(problems, start, max_iter=60)
    assert minimum.converged[1] and int(minimum.evaluations[1]) == counts[1]
    assert problems.batches[: counts[1]] == [3] * counts[1]
    assert max(problems.batches[counts[1] :]) == 2


def test_start_at_the_minimum_converges_with_one_evaluation() -> None:
    problems = Convex(torch.eye(4, dtype=torch.double).repeat(2, 1, 1), torch.zeros(2, 4, dtype=torch.double))
    minimum = minimize(problems, torch.zeros(2, 4, dtype=torch.double))
    assert minimum.converged.all() and minimum.evaluations.tolist() == [1, 1] and problems.batches == [2]


class Breaking(Convex):
    """The second problem answers NaN from its fourth evaluation on, or infinity in its gradient."""

    def __init__(self, *data, where: str) -> None:
        super().__init__(*data)
        self.where, self.second = where, 1

    def evaluate(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, gradients = super().evaluate(points)
        if len(self.batches) >= 4 and self.second is not None:
            if self.where == "loss":
                losses[self.second] = torch.nan
            else:
                gradients[self.second, 0] = torch.inf
        return losses, gradients

    def keep(self, rows: torch.Tensor) -> None:
        super().keep(rows)
        self.second = 1 if 1 in rows.tolist() else None


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_breakdown_ends_one_problem_with_its_best_iterate(where: str) -> None:
    problems, start = convex_problems([0.1, 0.1, 0.2])
    iterates, losses = [], []
    healthy = Convex(problems.matrices, problems.offsets)
    reference = minimize(
        healthy, start, max_iter=20, callback=lambda step, rows, points: iterates.append(points.clone())
    )
    for points in iterates[:3]:
        losses.append(float(Convex(problems.matrices, problems.offsets).evaluate(points)[0][1]))
    minimum = minimize(Breaking(problems.matrices, problems.offsets, where=where), start, max_iter=20)
    assert minimum.failed.tolist() == [False, True, False]
    assert not minimum.converged[1]
    best = min(range(3), key=losses.__getitem__)
    assert torch.equal(minimum.points[1], iterates[best][1])
    others = [0, 2]
    assert torch.allclose(minimum.points[others], reference.points[others], atol=1e-10, rtol=0)


def test_breakdown_at_the_start_returns_the_start() -> None:
    problems, start = convex_problems([0.1, 0.1])
    start[0, 0] = torch.nan
    minimum = minimize(problems, start, max_iter=5)
    assert minimum.failed.tolist() == [True, False]
    assert torch.equal(minimum.points[0].isnan(), start[0].isnan())
    assert minimum.points[1].isfinite().all()


def test_late_looks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator the host looks only now and then; the points must be those of looking at each step."""
    problems, start = convex_problems([0.2, 0.01, 0.1])
    expected = minimize(Convex(problems.matrices, problems.offsets), start, max_iter=40)
    monkeypatch.setattr(lbfgs, "look_every", lambda device: 7)
    late = minimize(problems, start, max_iter=40)
    assert torch.allclose(late.points, expected.points, atol=1e-10, rtol=0)
    assert torch.equal(late.evaluations, expected.evaluations)
    assert torch.equal(late.converged, expected.converged)


def test_batches_of_few_sizes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator problems that have ended fill the batch until the rest fits the next power of two."""
    scales = [0.2, 0.01, 0.1, 0.02, 0.05, 0.001]
    problems, start = convex_problems(scales)
    expected = minimize(Convex(problems.matrices, problems.offsets), start, max_iter=60)
    monkeypatch.setattr(lbfgs, "full_size", lambda count, device: 1 << (count - 1).bit_length())
    seen = minimize(problems, start, max_iter=60)
    sizes = set(problems.batches)
    assert len(sizes) > 2 and sizes <= {6, 4, 2, 1}
    torch.testing.assert_close(seen.points, expected.points, rtol=0, atol=1e-10)
    assert torch.equal(seen.evaluations, expected.evaluations) and torch.equal(seen.converged, expected.converged)


def convex_losses(problems: Convex) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The same problems as a function."""
    matrices, offsets = problems.matrices, problems.offsets

    def losses(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        residuals = (matrices[rows] @ points[:, :, None]).squeeze(2) - offsets[rows]
        return residuals.cosh().log().sum(1) + 0.01 * points.square().sum(1)

    return losses


@pytest.mark.parametrize("grad_enabled", [True, False])
def test_a_function_is_minimized_as_an_object_is(grad_enabled: bool) -> None:
    problems, start = convex_problems([0.2, 0.01, 0.1])
    before = start.clone()
    with torch.set_grad_enabled(grad_enabled):
        found = minimize(convex_losses(problems), start.requires_grad_(grad_enabled), max_iter=40)
    expected = minimize(problems, before, max_iter=40)
    assert torch.equal(found.points, expected.points) and torch.equal(found.evaluations, expected.evaluations)
    assert torch.equal(start, before) and start.grad is None and not found.points.requires_grad


def test_a_function_is_told_which_problems_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As problems end, and where some that have ended fill the batch."""
    problems, start = convex_problems([0.2, 0.01, 0.1, 0.02, 0.05, 0.001])
    losses, asked, left = convex_losses(problems), [], []

    def watched(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows.tolist())
        return losses(points, rows)

    def watch(step: int, rows: torch.Tensor, points: torch.Tensor) -> None:
        left.append(rows.tolist())

    expected = minimize(problems, start, max_iter=60)
    for filled in (False, True):
        if filled:
            monkeypatch.setattr(lbfgs, "full_size", lambda count, device: 1 << (count - 1).bit_length())
        asked.clear(), left.clear()
        found = minimize(watched, start, max_iter=60, callback=watch)
        assert asked == left and len({len(rows) for rows in asked}) > 2
        torch.testing.assert_close(found.points, expected.points, rtol=0, atol=1e-10)


RIDGE = 0.1


def logistic(dtype: torch.dtype) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Twenty logistic regressions on 50 lines of four features, whose second derivatives are at least RIDGE."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 50, 4, dtype=dtype, generator=generator)
    classes = torch.randint(2, (20, 50), generator=generator).to(dtype)

    def losses(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        logits = (features[rows] @ points[:, :, None]).squeeze(2)
        misfit = binary_cross_entropy_with_logits(logits, classes[rows], reduction="none").mean(1)
        return misfit + 0.5 * RIDGE * points.square().sum(1)

    return losses


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_logistic_regressions(dtype: torch.dtype, near: float) -> None:
    losses = logistic(dtype)
    settings = {"max_iter": 200, "tolerance_grad": near * RIDGE, "tolerance_change": 0}
    found = minimize(losses, torch.zeros(20, 4, dtype=dtype), **settings)
    assert found.converged.all() and found.points.dtype == dtype
    # Where the loss curves by the ridge at least, the optimum is no further than the gradient's norm over the ridge.
    points = found.points.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(losses(points, torch.arange(20)).sum(), points)
    assert gradients.norm(dim=1).max() / RIDGE < 2 * near
    for row in range(20):
        point = torch.zeros(1, 4, dtype=dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([point], **settings)

        def closure(point=point, optimizer=optimizer, row=row) -> torch.Tensor:
            optimizer.zero_grad()
            loss = losses(point, torch.tensor([row])).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert (point[0] - found.points[row]).abs().max() < near


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "book" / "api.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["found"].points.shape == (60, 8) and names["found"].converged.all()


@pytest.mark.parametrize("start", [torch.zeros(3), torch.zeros(3, 0), torch.zeros(2, 3, dtype=torch.long), [[0.0]]])
def test_a_start_that_does_not_fit(start) -> None:
    with pytest.raises(InputError, match=r"start must be a floating-point tensor \(B, N\), not (torch|list)"):
        minimize(lambda points, rows: points.square().sum(1), start)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (lambda points, rows: points.square().sum(), r"shape \(2,\), not torch.float32 \(\)"),
        (lambda points, rows: points.square(), r"shape \(2,\), not torch.float32 \(2, 3\)"),
        (lambda points, rows: 0.0, r"shape \(2,\), not float"),
        (lambda points, rows: points.detach().sum(1), "that have a gradient"),
        (lambda points, rows: torch.ones(2, requires_grad=True) + 0, "that have a gradient"),
    ],
)
def test_losses_that_do_not_fit(losses, words: str) -> None:
    with pytest.raises(InputError, match=words):
        minimize(losses, torch.ones(2, 3))


def test_within_inference_mode() -> None:
    with torch.inference_mode():
        found = minimize(lambda points, rows: (points - 1).square().sum(1), torch.zeros(2, 3))
    torch.testing.assert_close(found.points, torch.ones(2, 3))
