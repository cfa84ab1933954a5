"""The batched optimizer against torch.optim.LBFGS, one problem at a time."""

import pytest
import torch

from perceptual_lib.core.lbfgs import minimize


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
    from perceptual_lib.core import lbfgs

    problems, start = convex_problems([0.2, 0.01, 0.1])
    expected = minimize(Convex(problems.matrices, problems.offsets), start, max_iter=40)
    monkeypatch.setattr(lbfgs, "look_every", lambda device: 7)
    late = minimize(problems, start, max_iter=40)
    assert torch.allclose(late.points, expected.points, atol=1e-10, rtol=0)
    assert torch.equal(late.evaluations, expected.evaluations)
    assert torch.equal(late.converged, expected.converged)
