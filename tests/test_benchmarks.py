"""The benchmark runs, its peers agree with ours, and what it writes is what the page reads. Nothing is said of time."""

import subprocess
import sys
from pathlib import Path

import pytest

from perceptual_lib.tables.speed import growth_table, measured, speed_table

ROOT = Path(__file__).parents[1]
QUICK = {"3": "games", "5": "localisation", "6": "all_ranges", "7b": "import", "4c": "captum and 1-gradient"}
"""Rows that take seconds at the smallest scale, and what chooses them."""


@pytest.mark.slow
def test_rows_run_and_agree(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    chosen = " or ".join(f"({each})" for each in QUICK.values())
    command = [sys.executable, "-m", "pytest", "benchmarks", "--scale=smoke", "-k", chosen, f"--benchmark-json={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = measured(file)
    assert {row["row"] for row in run.rows} == set(QUICK)
    assert "times the floor" in done.stdout and "scale smoke" in run.described
    table = speed_table(run.rows)
    assert (table.ratio.map(lambda ratio: ratio.value) > 0).all()
    assert (table[table.row != "7b"].agreement != "").all()


def test_the_published_run_has_every_row() -> None:
    run = measured(ROOT / "results" / "speed")
    assert set("1 2a 2b 2c 2d 3 4a 4b 4c 4d 4e 4f 4g 4h 5 6 7a 7b 7c".split()) <= set(speed_table(run.rows).row)
    assert set(growth_table(run).axis) == {"images", "pixels", "layers held", "steps", "history"}
    assert run.row("workers") and run.row("half precision")
    assert run.machine["scale"] != "smoke"
