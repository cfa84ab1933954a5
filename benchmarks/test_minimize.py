"""Row 2f: the batched optimizer on general problems, against BoTorch's batched L-BFGS-B and SciPy's, one at a time."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from benchmarks.contest import Contest, Turn
from perceptual_lib import minimize

COUNT, LENGTH = 64, 1000
TOLERANCE = 1e-6  # of each entry of the gradient; as the loss has a curvature of 1 or more, the optimum is as near
HISTORY = 10  # the default of SciPy and BoTorch
INSTALL = "pip install 'perceptual-ball[bench]'"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: two gain little on arrays of this size, and wait for each other on a busy machine."""
    threads = pytest.importorskip("threadpoolctl", reason=f"row 2f needs threadpoolctl, as BoTorch does: {INSTALL}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threads.threadpool_limits(1, user_api="blas"):  # SciPy's
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_batched_problems(contest: Contest, device: torch.device) -> None:
    """Each problem is a series whose neighbours are coupled, in the last one thirty times as stiffly as in the first.
    Evaluations are cheap, so that the row measures the optimizers."""
    batched = pytest.importorskip("botorch.optim.batched_lbfgs_b", reason=f"row 2f needs BoTorch: {INSTALL}")
    optimum = torch.randn(COUNT, LENGTH, dtype=torch.double, generator=torch.Generator().manual_seed(0)).to(device)
    stiffness = torch.logspace(0, np.log10(30), COUNT, dtype=torch.double, device=device)

    def losses(points: Tensor, rows: Tensor) -> Tensor:
        away = points - optimum[rows]
        bends = away.diff(dim=1).square()
        return 0.5 * away.square().sum(1) + stiffness[rows] * (0.5 * bends + 0.05 * bends.square()).sum(1)

    def evaluate(points: np.ndarray, batch_indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        points = torch.from_numpy(points).to(device).requires_grad_()
        found = losses(points, torch.tensor(batch_indices, device=device))
        (gradients,) = torch.autograd.grad(found.sum(), points)
        return found.detach().cpu().numpy(), gradients.cpu().numpy()

    def alone(row: int) -> tuple[np.ndarray, int]:
        def of_one(point: np.ndarray) -> tuple[float, np.ndarray]:
            (loss,), (gradient,) = evaluate(point[None], [row])
            return loss, gradient

        point, _, info = fmin_l_bfgs_b(of_one, np.zeros(LENGTH), m=HISTORY, factr=0, pgtol=TOLERANCE)
        return point, info["funcalls"]

    def ours() -> tuple[Tensor, float]:
        start = torch.zeros_like(optimum)
        settings = {"history_size": HISTORY, "tolerance_grad": TOLERANCE, "tolerance_change": 0}
        found = minimize(losses, start, max_iter=1000, **settings)
        return found.points, float(found.evaluations.double().mean())

    def botorch() -> tuple[np.ndarray, float]:
        settings = {"maxcor": HISTORY, "factr": 0.0, "pgtol": TOLERANCE, "pass_batch_indices": True}
        points, _, found = batched.fmin_l_bfgs_b_batched(evaluate, np.zeros((COUNT, LENGTH)), **settings)
        return points, np.mean([each.nfev for each in found])

    def scipy() -> tuple[np.ndarray, float]:
        points, calls = zip(*map(alone, range(COUNT)), strict=True)
        return np.stack(points), np.mean(calls)

    def agreement(results: dict) -> str:
        away = {
            name: float((torch.as_tensor(points).to(device) - optimum).abs().max())
            for name, (points, _) in results.items()
        }
        worst = max(away.values())
        assert worst < 2 * TOLERANCE
        means = ", ".join(f"{name} {evaluations:.0f}" for name, (_, evaluations) in results.items())
        return f"points differ from the optimum by {worst:.0e} at most; evaluations of a problem: {means}"

    transfer = "" if device.type == "cpu" else ", each evaluation sent to the GPU and back"
    contest(
        "2f",
        f"L-BFGS, {COUNT} convex problems of {LENGTH} numbers, history of {HISTORY}, one thread",
        units=COUNT,
        unit="problem",
        ours=ours,
        others={
            "BoTorch": Turn(botorch, about=f"its batched L-BFGS-B, with a line search, on NumPy arrays{transfer}"),
            "SciPy": Turn(scipy, about=f"its L-BFGS-B, with a line search, one problem at a time{transfer}"),
        },
        limits={},
        agreement=agreement,
    )
