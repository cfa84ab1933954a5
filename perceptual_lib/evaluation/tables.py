"""What all tables share: estimates that may be missing, settings that were tried, the paper's numbers, formats."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.selection import parse_span
from perceptual_lib.evaluation.statistics import Estimate, Statistic, bootstrap, plain, whole_rows
from perceptual_lib.methods import find_method

OURS = "perceptual"  # what the other methods of a table are compared with


def estimate(values: ArrayLike, statistic: Statistic = plain) -> Estimate | None:
    """As `statistics.bootstrap`, but None if fewer than two rows are without nan: one alone has no interval."""
    return bootstrap(values, statistic) if len(whole_rows(values)) > 1 else None


def difference_estimate(first: ArrayLike, second: ArrayLike, statistic: Statistic = plain) -> Estimate | None:
    """The statistic of one method minus that of another on the same images, with its interval.

    Both are computed on the same resamples, so what makes an image hard for both cancels. An image with a nan in either
    is left out of both; None if fewer than two are left. Takes values (N, ...), row i for image i in both.
    """
    both = np.stack([first, second], axis=1)
    return estimate(both, lambda means: statistic(means[:, 0]) - statistic(means[:, 1]))


def layer_range(settings: str) -> tuple[int, int] | tuple[None, None]:
    """The first and last layer that settings (JSON) hold: (0, -1) for none; Nones for a method that knows no layers,
    and for layers that are not one range of indices, such as names."""
    layers = json.loads(settings).get("layers")
    spans = [parse_span(str(each)) for each in (layers if isinstance(layers, list) else [layers])]
    if None in spans:
        return None, None
    held = {index for first, last in spans for index in range(first, last + 1)}
    first, last = min(held, default=0), max(held, default=-1)
    return (first, last) if len(held) == last - first + 1 else (None, None)


def forward_passes(lines: pd.DataFrame, **fixed: object) -> int | None:
    """Forward passes of the network for one map, by the method and settings of a row: for RISE the number of masks.

    For our own methods it is what the search usually takes; None for a method that is not known here. `fixed` are
    settings that the game imposes on all methods that have them.
    """
    try:
        return find_method(lines.method.iloc[0]).passes(json.loads(lines.settings.iloc[0]) | fixed)[0]
    except (InputError, KeyError):
        return None


def with_own(tried: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the settings tried, then those of the profile's own settings, for the same methods, on every
    photograph that any was tried on.

    Between them are those of no_perceptual, as a trial of "perceptual" without layers: a triangle's corner in Fig. 5.
    """
    of_table = table[(table.role == "table") & table.photograph.isin(tried.photograph)]
    corner = of_table[(of_table.method == "no_perceptual") & ("perceptual" in set(tried.method))]
    own = of_table[of_table.method.isin(tried.method)]
    return pd.concat([tried, corner.assign(role="range", method="perceptual"), own])


def by_setting(lines: pd.DataFrame, columns: str, measure: Callable[[pd.DataFrame], tuple]) -> pd.DataFrame:
    """A line for each setting of a method, in the order of the table: role, method, first and last layer held, and in
    the `columns` what `measure` says of its lines."""
    settings = lines.groupby(["role", "method", "settings"], sort=False, observed=True)
    found = [(role, method, *layer_range(given), *measure(rows)) for (role, method, given), rows in settings]
    spans = {"first": "Int64", "last": "Int64"}  # with <NA>
    return pd.DataFrame(found, columns=["role", "method", *spans, *columns.split()]).astype(spans)


def make_table(lines: Mapping[Any, Mapping[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    """A table of lines, by method or by a longer key; None where a line lacks a column."""
    rows = {row: [line.get(column) for column in columns] for row, line in lines.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))


def paper_table(name: str) -> pd.DataFrame:
    """A table of the paper, by method: "table1", "table2" or "table3"."""
    return pd.read_csv(Path(__file__).parent / "paper" / f"{name}.csv", index_col="method")


def format_cell(value: object) -> str:
    """A cell: "0.41 (0.36 to 0.47)" for an estimate, three digits where the interval is narrow; "" for nothing."""
    if isinstance(value, Estimate):
        digits = 3 if 0 < value.high - value.low < 0.03 else 2
        return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_table(table: pd.DataFrame, format: str, width: int | None = None) -> str:
    """A table of estimates as "text", "csv", "markdown" or "latex"; InputError for another format.

    In CSV an estimate takes three columns: its value and NAME_low and NAME_high. Text that is wider than `width`
    characters continues in further blocks of columns.
    """
    labels = [name or "method" for name in table.index.names]
    if format == "csv":
        return _spread(table).to_csv(index_label=labels).rstrip()
    if format == "text":
        return table.map(format_cell).to_string(line_width=width)
    cells = table.reset_index(names=labels).map(format_cell)
    if format == "markdown":
        return cells.replace(r"\|", r"\|", regex=True).to_markdown(index=False, disable_numparse=True)
    if format == "latex":
        return cells.to_latex(index=False, escape=True, column_format="l" + "r" * (len(cells.columns) - 1))
    raise InputError(f"there is no format {format!r}; there are text, csv, markdown and latex.")


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """Each column of estimates as three columns of numbers, None where there is no estimate."""
    columns = {}
    for name, column in table.items():
        columns[name] = column
        if column.map(lambda value: isinstance(value, Estimate)).any():
            for suffix, number in ("", "value"), ("_low", "low"), ("_high", "high"):
                columns[name + suffix] = [getattr(value, number, None) for value in column]
    return pd.DataFrame(columns, index=table.index)
