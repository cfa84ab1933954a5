"""The table of speeds, the lines of growth and the time of a large study, from what `make bench` measured.

`make bench` writes pytest-benchmark's JSON; only the `extra_info` of its rows is read (benchmarks/contest.py).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.statistics import Estimate
from perceptual_lib.evaluation.tables import format_cell


@dataclass(frozen=True)
class SpeedRun:
    """One run of the benchmark: the `extra_info` of each row, the machine and, in words, the date."""

    rows: list[dict[str, Any]]
    machine: dict[str, Any]
    made: str

    def row(self, name: str) -> dict[str, Any] | None:
        """A row by its name, None where it was not measured."""
        return next((row for row in self.rows if row["row"] == name), None)

    @property
    def description(self) -> str:
        """The machine and the time, for readers."""
        gpu = "{gpu}; " if self.machine["gpu"] else ""
        words = (
            gpu + "{processor}, {cores} cores, {threads} threads used, {memory} GiB, {system}, "
            "Python {versions[python]}, torch {versions[torch]}; scale {scale}, "
        )
        return words.format_map(self.machine) + f"{self.made}."


def load_speed(path: str | PathLike) -> SpeedRun:
    """Load what `make bench` wrote: a file, or a folder of files from one machine, where later files replace the rows
    of earlier ones. Raises InputError for a file that is missing or of another kind, and for several machines.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    rows, machines, made = {}, [], []
    try:
        for file in files:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = [each["extra_info"] for each in content["benchmarks"]]
            rows |= {row["row"]: row for row in found if "row" in row}  # an interrupted benchmark has no name
            machines.append(content["machine_info"]["speed"])
            made.append(content["datetime"][:10])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no result of make bench ({type(error).__name__}).") from error
    if len({machine["processor"] for machine in machines}) != 1:
        raise InputError(f"{path} must hold results of make bench from one machine.")
    return SpeedRun(list(rows.values()), machines[-1], " and ".join(dict.fromkeys(made)))


def speed_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A line for each comparison of each contest.

    Columns: row; work, what was done; unit of the work; seconds that ours takes for one unit; measure, what the ratio
    compares; ratio; goal of the ratio; reached, whether its median does; agreement of the results. Estimates are
    medians over the rounds, with the least and the greatest; a ratio is taken within each round.
    """
    lines = []
    for row in sorted(rows, key=lambda row: row["row"]):
        seconds = over_rounds(row["seconds"]["ours"]) if "seconds" in row else None
        for measure, ratio, goal, at_least in _ratios(row):
            reached = None if goal is None else bool(ratio.value >= goal if at_least else ratio.value <= goal)
            words = "" if goal is None else f"{'>=' if at_least else '<='} {goal:g}"
            own = row["row"], row["title"], row.get("unit", ""), seconds
            lines.append((*own, measure, ratio, words, reached, row.get("agreement", "")))
    return pd.DataFrame(lines, columns="row work unit seconds measure ratio goal reached agreement".split())


def _ratios(row: Mapping[str, Any]) -> Iterator[tuple[str, Estimate, float | None, bool]]:
    """For each ratio of a row: what it compares, the ratio, its goal, and whether the goal is a lower bound."""
    limits = row.get("limits", {})
    if "growth" in row:
        yield "times as much", over_rounds([row["growth"]]), limits["growth"], False
    seconds = {name: np.array(values) for name, values in row.get("seconds", {}).items()}
    ours = seconds.pop("ours", None)
    if "seconds" in limits:
        yield "seconds", over_rounds(ours), limits["seconds"], False
    for name, theirs in seconds.items():
        if name.startswith("floor"):
            yield f"times the {name}", over_rounds(ours / theirs), limits.get(name), False
        else:
            yield f"times as fast as {name}", over_rounds(theirs / ours), limits.get(name), True


def over_rounds(values: Sequence[float] | np.ndarray) -> Estimate:
    """The median, with the least and the greatest."""
    return Estimate(float(np.median(values)), float(np.min(values)), float(np.max(values)), len(values))


def format_speed(table: pd.DataFrame) -> str:
    """The table as text for a terminal."""
    reached = table.reached.map({True: "yes", False: "NO", None: ""})
    flat = table.assign(reached=reached).drop(columns=["agreement", "unit"]).set_index("row")
    return flat.map(format_cell).to_string()


def growth_table(run: SpeedRun) -> pd.DataFrame:
    """For each axis of growth, the lines of least squares through the measured seconds and MB.

    Columns: axis; values, their range; n; what, seconds or MB; at_zero and per_unit, intercept and slope of the line;
    worst, the largest distance of a point from its line as a share of the largest value.
    """
    lines = []
    for row in run.rows:
        if "axis" in row:
            x, seconds, memory = np.array(row["points"], dtype=float).T
            for what, y in (("seconds", seconds), ("MB", memory / 1e6)):
                slope, intercept = np.polyfit(x, y, 1)
                worst = np.abs(intercept + slope * x - y).max() / np.abs(y).max()
                lines.append((row["axis"], f"{x.min():g} to {x.max():g}", len(x), what, intercept, slope, worst))
    return pd.DataFrame(lines, columns="axis values n what at_zero per_unit worst".split())


def study_hours(
    run: SpeedRun, images: int, ranges: int, evaluations: int, workers: int, gpu_row: str = "2b"
) -> float | None:
    """Hours to explain images with ranges of layers held, on so many workers like those measured.

    If the run had a GPU, a worker is a GPU, at the median speed of `gpu_row`. Else it is one of two workers of Ray on
    one thread each, so that their competition for the machine is counted. None if the row was not measured.
    """
    row = run.row(gpu_row if run.machine["gpu"] else "workers")
    if row is None:
        return None
    on_gpu = run.machine["gpu"]
    seconds = np.median(row["seconds"]["ours"]) if on_gpu else 2 * row["workers"]["2"] / row["evaluations"]
    return float(images * ranges * evaluations * seconds / workers / 3600)
