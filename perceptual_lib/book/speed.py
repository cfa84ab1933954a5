"""From what `make bench` measured to the table of speeds, the lines of growth and what a large study would take.

Its file is pytest-benchmark's JSON; what is read of a row is its `extra_info` (benchmarks/contest.py).
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

COLUMNS = ("row", "work", "unit", "seconds", "measure", "ratio", "goal", "reached", "agreement")


@dataclass(frozen=True)
class Measured:
    """One run of the benchmark.

    Attributes:
        rows: what each row says of itself.
        machine: where it was measured.
        made: when, in words.
    """

    rows: list[dict[str, Any]]
    machine: dict[str, Any]
    made: str

    def row(self, name: str) -> dict[str, Any] | None:
        """A row by its name, None where it was not measured."""
        return next((row for row in self.rows if row["row"] == name), None)

    @property
    def described(self) -> str:
        """The machine and the time, for readers."""
        machine = self.machine
        gpu = f"{machine['gpu']}; " if machine["gpu"] else ""
        return (
            f"{gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used, "
            f"{machine['memory']} GiB, {machine['system']}, Python {machine['versions']['python']}, torch "
            f"{machine['versions']['torch']}; scale {machine['scale']}, {self.made}."
        )


def measured(path: str | PathLike) -> Measured:
    """What `make bench` wrote: a file, or a folder of them from one machine, whose later rows replace the earlier.

    Raises:
        InputError: no such file, another kind of file, several machines.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    rows, machines, made = {}, [], []
    try:
        for file in files:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = [each["extra_info"] for each in content["benchmarks"]]
            rows |= {row["row"]: row for row in found if "row" in row}  # one that was broken off has none
            machines.append(content["machine_info"]["speed"])
            made.append(content["datetime"][:10])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no result of make bench ({type(error).__name__}).") from error
    if len({machine["processor"] for machine in machines}) != 1:
        raise InputError(f"{path} must hold results of make bench from one machine.")
    return Measured(list(rows.values()), machines[-1], " and ".join(dict.fromkeys(made)))


def speed_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A line for each comparison of each contest.

    Columns: row; work, what was done; unit; seconds of ours for one; measure, what ratio is of; ratio; goal, what it
    was to reach, and whether its median did; agreement of the results. Estimates are the median over the rounds, with
    the least and the greatest; a ratio is taken within each round.
    """
    lines = [line for row in sorted(rows, key=lambda row: row["row"]) for line in _lines(row)]
    return pd.DataFrame(lines, columns=COLUMNS)


def _lines(row: Mapping[str, Any]) -> Iterator[tuple]:
    limits = row.get("limits", {})
    if "growth" in row:
        goal = limits["growth"]
        ratio = over_rounds([row["growth"]])
        yield (row["row"], row["title"], "", None, "times as much", ratio, f"<= {goal:g}", row["growth"] <= goal, "")
    if "seconds" not in row:
        return
    ours = np.array(row["seconds"]["ours"])
    head = row["row"], row["title"], row["unit"], over_rounds(ours)
    if "seconds" in limits:
        ratio, goal = over_rounds(ours), limits["seconds"]
        yield (*head, "seconds", ratio, f"<= {goal:g}", bool(ratio.value <= goal), row["agreement"])
    for name, theirs in row["seconds"].items():
        goal = limits.get(name)
        if name.startswith("floor"):
            ratio = over_rounds(ours / np.array(theirs))
            yield (*head, f"times the {name}", ratio, *_goal(ratio.value, goal, at_least=False), row["agreement"])
        elif name != "ours":
            ratio = over_rounds(np.array(theirs) / ours)
            measure = f"times as fast as {name}"
            yield (*head, measure, ratio, *_goal(ratio.value, goal, at_least=True), row["agreement"])


def _goal(value: float, goal: float | None, at_least: bool) -> tuple[str, bool | None]:
    if goal is None:
        return "", None
    return f"{'>=' if at_least else '<='} {goal:g}", bool(value >= goal if at_least else value <= goal)


def over_rounds(values: Sequence[float] | np.ndarray) -> Estimate:
    """The median, with the least and the greatest."""
    return Estimate(float(np.median(values)), float(np.min(values)), float(np.max(values)), len(values))


def format_speed(table: pd.DataFrame) -> str:
    """The table as text for a terminal."""
    flat = table.drop(columns=["agreement", "unit"]).set_index("row")
    flat["reached"] = flat.reached.map({True: "yes", False: "NO", None: ""})
    return flat.map(format_cell).to_string()


@dataclass(frozen=True)
class Line:
    """The straight line through measured points.

    Attributes:
        intercept, slope: of the least squares.
        worst: the largest distance of a point from it, as a share of the largest value.
    """

    intercept: float
    slope: float
    worst: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line of least squares through two points or more."""
    slope, intercept = np.polyfit(x, y, 1)
    error = np.abs(np.polyval([slope, intercept], x) - y).max() / np.max(np.abs(y))
    return Line(float(intercept), float(slope), float(error))


def growth_table(run: Measured) -> pd.DataFrame:
    """For each axis of growth the lines of seconds and of memory in MB, from the points measured."""
    lines = []
    for row in run.rows:
        if "axis" in row:
            x, seconds, memory = np.array(row["points"], dtype=float).T
            for what, y in (("seconds", seconds), ("MB", memory / 1e6)):
                line = fit_line(x, y)
                values = f"{x.min():g} to {x.max():g}"
                lines.append((row["axis"], values, len(x), what, line.intercept, line.slope, line.worst))
    return pd.DataFrame(lines, columns="axis values n what at_zero per_unit worst".split())


def study_hours(run: Measured, images: int, ranges: int, evaluations: int, workers: int) -> float | None:
    """Hours that explaining images with ranges of layers held takes on so many workers like those measured.

    A worker is a GPU where the run had one, with the median of row 2b. Elsewhere it is one of two workers of Ray, each
    on one thread, so that what they take from each other is in it. None where the row was not measured.
    """
    row = run.row("2b" if run.machine["gpu"] else "workers")
    if row is None:
        return None
    seconds = (  # of one worker, for one evaluation
        np.median(row["seconds"]["ours"]) if run.machine["gpu"] else 2 * row["workers"]["2"] / row["evaluations"]
    )
    return float(images * ranges * evaluations * seconds / workers / 3600)
