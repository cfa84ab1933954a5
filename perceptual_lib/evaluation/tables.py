"""What all tables share: estimates that may be missing, settings that were tried, the paper's numbers, formats."""

import json
from importlib.resources import files

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.statistics import Estimate, Statistic, bootstrap, paired_difference, plain

LATEX = {character: f"\\{character}" for character in "_&%#${}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def estimate(values: ArrayLike, statistic: Statistic = plain) -> Estimate | None:
    """As `statistics.bootstrap`, but None where fewer than two rows are without nan: one has no interval."""
    return bootstrap(values, statistic) if _whole_rows(values) > 1 else None


def difference_estimate(first: ArrayLike, second: ArrayLike, statistic: Statistic = plain) -> Estimate | None:
    """As `statistics.paired_difference`, but None where fewer than two rows are without nan in both."""
    enough = _whole_rows(np.subtract(first, second)) > 1
    return paired_difference(first, second, statistic) if enough else None


def _whole_rows(values: ArrayLike) -> int:
    values = np.asarray(values, dtype=np.float64)
    return int((~np.isnan(values).any(tuple(range(1, values.ndim)))).sum())


def layer_range(settings: str) -> tuple[int, int] | tuple[None, None]:
    """The first and the last layer held, by a row's settings (JSON).

    (0, -1), the range that is empty, where none is held; (None, None) for a method that knows no layers.
    """
    layers = json.loads(settings).get("layers")
    if layers is None:
        return None, None
    first, _, last = str(layers).partition("-")
    return (int(first), int(last or first)) if layers != [] else (0, -1)


def forward_passes(lines: pd.DataFrame) -> int | None:
    """Of the network for a map of a row, by its method and settings: for RISE its masks.

    For our own methods as many as the search may take, which may end sooner. None for a method that is not known here.
    """
    from perceptual_lib.evaluation.rows import passes  # an import of PyTorch

    settings = json.loads(lines.settings.iloc[0])
    if "max_iter" in settings:
        return settings["max_iter"] + 2  # an evaluation at the start, and one for the margin at the end
    try:
        return passes(lines.method.iloc[0], settings)[0]
    except (InputError, KeyError):
        return None


def with_own(tried: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The lines of settings that were tried, then those of the profile's own, of the same methods and photographs."""
    own = table[(table.role == "table") & table.method.isin(tried.method) & table.photograph.isin(tried.photograph)]
    return pd.concat([tried, own])


def paper_table(name: str) -> pd.DataFrame:
    """A table of the paper, by method: "table1", "table2" or "table3"."""
    path = files("perceptual_lib.evaluation").joinpath(f"paper/{name}.csv")
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, index_col="method")


def format_cell(value: object) -> str:
    """A cell: "0.41 (0.36 to 0.47)" for an estimate, "" for nothing."""
    if isinstance(value, Estimate):
        return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_table(table: pd.DataFrame, format: str, width: int | None = None) -> str:
    """A table of estimates as "text", "csv", "markdown" or "latex".

    In CSV an estimate takes three columns: its value and NAME_low and NAME_high. Text that is wider than `width`
    characters continues in further blocks of columns.

    Raises:
        InputError: another format.
    """
    labels = [name or "method" for name in table.index.names]
    if format == "csv":
        return _spread(table).to_csv(index_label=labels).rstrip()
    if format == "text":
        return table.map(format_cell).to_string(line_width=width)
    flat = table.reset_index(names=labels)
    cells = [list(flat.columns), *flat.map(format_cell).to_numpy().tolist()]
    if format == "markdown":
        cells = [[cell.replace("|", r"\|") for cell in row] for row in cells]
        cells.insert(1, ["---"] * len(cells[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)
    if format == "latex":
        escaped = ([cell.translate(str.maketrans(LATEX)) for cell in row] for row in cells)
        rows = " \\\\\n".join(map(" & ".join, escaped))
        return f"\\begin{{tabular}}{{l{'r' * (len(cells[0]) - 1)}}}\n{rows} \\\\\n\\end{{tabular}}"
    raise InputError(f"there is no format {format!r}; there are text, csv, markdown and latex.")


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for name, column in table.items():
        if column.map(lambda value: isinstance(value, Estimate)).any():
            columns[name] = column.map(lambda value: getattr(value, "value", None))
            columns[f"{name}_low"] = column.map(lambda value: getattr(value, "low", None))
            columns[f"{name}_high"] = column.map(lambda value: getattr(value, "high", None))
        else:
            columns[name] = column
    return pd.DataFrame(columns, index=table.index)
