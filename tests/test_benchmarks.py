"""The benchmark runs, its peers agree with ours, and what it writes is what the page reads. Nothing is said of time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contest import Contest, Turn, floors
from benchmarks.peers import two_loops
from perceptual_lib.book.speed import growth_table, load_speed, speed_table

ROOT = Path(__file__).parents[1]
FLOORS = {"times the floor", "times the floor, folded"}
ROWS = {
    "2a": ("test_perturbation.py::test_lite[2a-1]", FLOORS),
    "2c": ("test_perturbation.py::test_optimizer[1]", {"times as fast as two loops", "times as fast as reading"}),
    "2f": ("test_minimize.py::test_batched_problems", {"times as fast as BoTorch", "times as fast as SciPy"}),
    "4c": ("test_methods.py::test_captum[1-gradient]", {"times as fast as captum"}),
    "5": ("test_scores.py::test_weak_localization", {"times as fast as plain loop"}),
    "5b": ("test_scores.py::test_memory_of_weak_localization", {"times as much"}),
    "7b": ("test_commands.py::test_import", {"seconds"}),
}
"""Rows that take seconds at the smallest scale: what measures them, and the lines that they have in the table."""


@pytest.mark.slow
def test_rows_run_and_agree(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    tests = [f"benchmarks/{test}" for test, _ in ROWS.values()]
    command = [sys.executable, "-m", "pytest", *tests, "--scale=smoke", f"--benchmark-json={file}"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of xdist
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    run = load_speed(file)
    assert {row["row"] for row in run.rows} == set(ROWS)
    assert "times the floor, folded" in done.stdout and "scale smoke" in run.description
    table = speed_table(run.rows)
    assert {row: set(table.measure[table.row == row]) for row in ROWS} == {
        row: lines for row, (_, lines) in ROWS.items()
    }
    compared = table[~table.row.isin(["5b", "7b"])]
    assert compared.agreement.str.contains("differ|correlate|the same|double precision").all()


class Recorder:
    """Stands for pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info = {}

    def pedantic(self, target, *, setup, teardown, rounds: int, warmup_rounds: int) -> None:
        for _ in range(warmup_rounds + rounds):
            setup()
            target()
            teardown()


def contest(turns: list[str], **more) -> Recorder:
    """Two rounds of a contest whose sides write their names down."""
    recorder = Recorder()
    others = {name: Turn(lambda name=name: turns.append(name), 0.5) for name in ("rival", "floor", "floor, folded")}
    ours = lambda: turns.append("ours")  # noqa: E731
    Contest(recorder, 2)("1", "work", units=1, unit="run", ours=ours, others=others, limits={}, **more)
    return recorder


def test_all_warm_up_and_no_floor_runs_behind_a_rival() -> None:
    turns: list[str] = []
    row = contest(turns).extra_info
    one, two = ["rival", "ours", "floor", "floor, folded"], ["floor", "floor, folded", "ours", "rival"]
    assert turns == one + two + one
    assert {name: len(taken) for name, taken in row["seconds"].items()} == dict.fromkeys(one, 2)


def test_a_row_whose_results_disagree_is_written_and_says_so() -> None:
    def disagree(results: dict) -> str:
        raise AssertionError

    recorder = Recorder()
    contest_of = Contest(recorder, 1)
    with pytest.raises(AssertionError):
        contest_of("1", "work", units=1, unit="", ours=int, others={}, limits={}, agreement=disagree)
    assert recorder.extra_info["row"] == "1" and "DISAGREE" in recorder.extra_info["agreement"]


class Counting(nn.Module):
    """Counts the images of its passes, and of those that gradients are taken of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        self.images = {False: 0, True: 0}

    def forward(self, images: Tensor) -> Tensor:
        self.images[torch.is_grad_enabled()] += len(images)
        return self.body(images).mean((2, 3))


@pytest.mark.parametrize("name", ["floor", "floor, folded"])
def test_a_floor_runs_the_passes_that_the_work_needs(name: str) -> None:
    network = Counting()
    floor = floors(network, torch.rand(2, 3, 8, 8), forward=4, both=8, largest=2, seconds=0.5)[name]
    network.images = {False: 0, True: 0}
    floor.run()
    assert network.images == {False: 4, True: 8} and floor.share == pytest.approx(1)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_two_loops_are_bfgs_without_its_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(6, generator=generator, dtype=torch.double) for _ in range(4)]
    changes = [step * torch.arange(1.0, 7) for step in steps]
    curvatures = [1 / change.dot(step) for step, change in zip(steps, changes, strict=True)]
    gradient = torch.randn(6, generator=generator, dtype=torch.double)
    one = torch.eye(6, dtype=torch.double)
    inverse = one * changes[-1].dot(steps[-1]) / changes[-1].dot(changes[-1])
    for step, change, rho in zip(steps, changes, curvatures, strict=True):  # Nocedal and Wright, Eq. 6.17
        left = one - rho * torch.outer(step, change)
        inverse = left @ inverse @ left.T + rho * torch.outer(step, step)
    torch.testing.assert_close(two_loops(steps, changes, curvatures, gradient), -inverse @ gradient)


def test_the_published_run_has_every_row() -> None:
    run = load_speed(ROOT / "results" / "speed")
    assert set("1 2a 2b 2c 2d 3 4a 4b 4c 4d 4e 4f 4g 4h 5 5b 6 7a 7b 7c".split()) <= set(speed_table(run.rows).row)
    assert set(growth_table(run).axis) == {"images", "pixels", "layers held", "steps", "history"}
    assert run.row("workers") and run.row("half precision")
    assert run.machine["scale"] != "smoke"
