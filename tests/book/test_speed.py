"""The table of speeds by hand: which ratio, against which goal, and what is read of pytest-benchmark's file."""

import json
from pathlib import Path

import numpy as np
import pytest

from perceptual_lib import InputError
from perceptual_lib.book.speed import (
    format_speed,
    growth_table,
    load_speed,
    over_rounds,
    speed_table,
    study_hours,
)

CONTEST = {
    "row": "1",
    "title": "some work",
    "unit": "evaluation",
    "units": 4,
    "seconds": {"ours": [1.0, 2.0, 3.0], "floor": [1.0, 1.0, 2.0], "plain way": [3.0, 8.0, 6.0], "other": [1, 1, 1]}
    | {"floor, folded": [0.5, 1.0, 1.0]},
    "limits": {"floor": 1.5, "plain way": 3},
    "about": {},
    "agreement": "the same",
}
COMMAND = CONTEST | {"row": "7", "seconds": {"ours": [4.0, 6.0]}, "limits": {"seconds": 4.5}, "agreement": ""}
MEMORY = {"row": "4b", "title": "memory", "growth": 1.05, "limits": {"growth": 1.1}}
GROWTH = {"row": "growth images", "title": "", "axis": "images", "points": [[1, 3, 2e6], [2, 5, 4e6], [3, 7, 6e6]]}
WORKERS = {"row": "workers", "title": "", "workers": {"1": 8.0, "2": 5.0}, "evaluations": 100}


def test_ratios_are_taken_within_rounds() -> None:
    lines = speed_table([CONTEST]).set_index("measure")
    floor, plain, other = (
        lines.loc[name] for name in ("times the floor", "times as fast as plain way", "times as fast as other")
    )
    assert (floor.ratio.value, floor.ratio.low, floor.ratio.high, floor.ratio.n) == (1.5, 1.0, 2.0, 3)
    assert (plain.ratio.value, plain.ratio.low, plain.ratio.high) == (3.0, 2.0, 4.0)
    assert (floor.goal, floor.reached, plain.goal, plain.reached) == ("<= 1.5", True, ">= 3", True)
    assert other.goal == "" and other.reached is None
    folded = lines.loc["times the floor, folded"]
    assert (folded.ratio.value, folded.ratio.low, folded.ratio.high, folded.goal) == (2.0, 2.0, 3.0, "")
    assert floor.seconds.value == 2.0


@pytest.mark.parametrize(("limits", "reached"), [({"floor": 1.4}, False), ({"floor": 1.5}, True)])
def test_a_goal_is_reached_by_the_median(limits: dict, reached: bool) -> None:
    assert speed_table([CONTEST | {"limits": limits}]).reached[0] == reached


@pytest.mark.parametrize(("goal", "reached"), [(2.9, True), (3.1, False)])
def test_a_rival_takes_at_least_so_many_times_as_long(goal: float, reached: bool) -> None:
    lines = speed_table([CONTEST | {"limits": {"plain way": goal}}]).set_index("measure")
    assert lines.reached["times as fast as plain way"] == reached


def test_seconds_and_memory() -> None:
    lines = speed_table([COMMAND, MEMORY, GROWTH, WORKERS]).set_index("row")
    assert list(lines.index) == ["4b", "7"]
    assert lines.ratio["7"].value == 5.0 and not lines.reached["7"]
    assert lines.ratio["4b"].value == 1.05 and lines.reached["4b"]


def test_what_is_printed() -> None:
    text = format_speed(speed_table([CONTEST, COMMAND]))
    assert "1.5 (1 to 2)" in text or "1.50 (1.00 to 2.00)" in text
    assert "NO" in text and "yes" in text


def write_results(path: Path, rows: list[dict], gpu: str = "") -> Path:
    machine = {"processor": "P", "cores": 2, "threads": 2, "memory": 8, "gpu": gpu, "system": "S"}
    machine |= {"versions": {"python": "3", "torch": "2"}, "scale": "quick"}
    content = {
        "benchmarks": [{"extra_info": row} for row in rows],
        "machine_info": {"speed": machine},
        "datetime": "2026-01-02T03:04:05",
    }
    path.write_text(json.dumps(content))
    return path


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    run = load_speed(write_results(tmp_path / "speed.json", [CONTEST, GROWTH, WORKERS]))
    assert len(run.rows) == 3 and run.made == "2026-01-02" and run.row("none") is None
    assert "2 cores, 2 threads" in run.description
    growth = growth_table(run).set_index("what")
    assert growth.per_unit.to_dict() == pytest.approx({"seconds": 2, "MB": 2})
    assert growth.at_zero.to_dict() == pytest.approx({"seconds": 1, "MB": 0}, abs=1e-9)
    assert growth.worst.to_dict() == pytest.approx({"seconds": 0, "MB": 0}, abs=1e-9)
    bent = GROWTH | {"points": [[0, 0, 0], [1, 0, 0], [2, 3, 3e6]]}  # 1.5 x - 0.5 by hand, 1 off in the middle
    growth = growth_table(load_speed(write_results(tmp_path / "bent.json", [bent])))
    assert growth[["per_unit", "at_zero", "worst"]].to_numpy() == pytest.approx(np.tile([1.5, -0.5, 1 / 3], (2, 1)))
    # Two workers do 100 evaluations in 5 s: 0.1 s each for one of them.
    assert study_hours(run, images=360, ranges=10, evaluations=100, workers=1) == pytest.approx(10)
    assert study_hours(run, images=360, ranges=10, evaluations=100, workers=4) == pytest.approx(2.5)
    assert study_hours(load_speed(write_results(tmp_path / "none.json", [CONTEST])), 1, 1, 1, 1) is None


def test_a_study_on_gpus_takes_what_a_batch_took_there(tmp_path: Path) -> None:
    run = load_speed(write_results(tmp_path / "gpu.json", [CONTEST | {"row": "2b"}, WORKERS], gpu="G"))
    assert study_hours(run, images=360, ranges=10, evaluations=100, workers=64) == pytest.approx(200 / 64)  # 2 s each
    none = load_speed(write_results(tmp_path / "none.json", [WORKERS], gpu="G"))
    assert study_hours(none, 1, 1, 1, 1) is None


def test_what_was_broken_off_is_no_row(tmp_path: Path) -> None:
    assert load_speed(write_results(tmp_path / "speed.json", [{}, MEMORY])).rows == [MEMORY]


def test_later_files_of_a_folder_replace_rows(tmp_path: Path) -> None:
    write_results(tmp_path / "1.json", [CONTEST, MEMORY])
    file = write_results(tmp_path / "2.json", [MEMORY | {"growth": 2.0}, WORKERS])
    run = load_speed(tmp_path)
    assert [row["row"] for row in run.rows] == ["1", "4b", "workers"] and run.row("4b")["growth"] == 2.0
    file.write_text(file.read_text().replace('"P"', '"Q"'))
    with pytest.raises(InputError, match="from one machine"):
        load_speed(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"benchmarks": [{}]}'])
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "speed.json").write_text(content)
    with pytest.raises(InputError, match="is no result of make bench"):
        load_speed(tmp_path / "speed.json")
    with pytest.raises(InputError, match="is no result of make bench"):
        load_speed(tmp_path / "not there.json")


def test_over_rounds() -> None:
    estimate = over_rounds(np.array([3.0, 1.0, 2.0, 9.0]))
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (2.5, 1.0, 9.0, 4)
