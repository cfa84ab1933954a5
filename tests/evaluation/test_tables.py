"""What all tables share: how they are written."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.statistics import Estimate
from perceptual_lib.evaluation.tables import format_cell, format_table, layer_range


@pytest.fixture
def written_table() -> pd.DataFrame:
    estimates = [Estimate(1 / 3, 0.2, 0.456, 3), None]
    return pd.DataFrame(
        {"n": [3, 0], "sigma": [2.5, np.nan], "held_out": estimates}, index=["my_method", r"50%|&#$^~{\}"]
    )


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("4-9", (4, 9)),
        ("4", (4, 4)),
        (4, (4, 4)),
        ([2, "3-5"], (2, 5)),
        ([], (0, -1)),
        ([2, 4], (None, None)),
        (["features.3", 4], (None, None)),
        (-1, (None, None)),
        (None, (None, None)),
    ],
)
def test_layers_that_are_one_range_and_others(layers, expected) -> None:
    assert layer_range(json.dumps({"layers": layers})) == expected


def test_csv_gives_the_numbers_back(written_table) -> None:
    back = pd.read_csv(io.StringIO(format_table(written_table, "csv")), index_col="method")
    assert back.columns.tolist() == ["n", "sigma", "held_out", "held_out_low", "held_out_high"]
    assert back.loc["my_method"].tolist() == [3, 2.5, 1 / 3, 0.2, 0.456]
    assert back.iloc[1, 1:].isna().all() and back.index.tolist() == written_table.index.tolist()


def test_markdown_latex_and_text(written_table) -> None:
    lines = format_table(written_table, "markdown").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert cells[:1] + cells[2:] == [
        ["method", "n", "sigma", "held_out"],
        ["my_method", "3", "2.5", "0.33 (0.20 to 0.46)"],
        [r"50%\|&#$^~{\}", "0", "", ""],
    ]
    assert format_table(written_table, "latex").splitlines() == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"method & n & sigma & held\_out \\",
        r"\midrule",
        r"my\_method & 3 & 2.5 & 0.33 (0.20 to 0.46) \\",
        r"50\%|\&\#\$\textasciicircum \textasciitilde \{\textbackslash \} & 0 &  &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    rows = [line.split() for line in format_table(written_table, "text").splitlines()]
    assert rows[:2] == [["n", "sigma", "held_out"], ["my_method", "3", "2.5", "0.33", "(0.20", "to", "0.46)"]]
    assert len(format_table(written_table, "text", width=30).splitlines()) > 6  # blocks of columns
    with pytest.raises(InputError, match="no format 'excel'; there are text, csv, markdown and latex"):
        format_table(written_table, "excel")


@pytest.mark.parametrize(("value", "cell"), [(None, ""), (np.nan, ""), (3, "3"), (2.5, "2.5"), (20.0, "20")])
def test_cells(value, cell) -> None:
    assert format_cell(value) == cell


def test_a_narrow_interval_is_worth_three_digits() -> None:
    assert format_cell(Estimate(0.8514, 0.8418, 0.8606, 4952)) == "0.851 (0.842 to 0.861)"  # the paper's has 0.851
    assert format_cell(Estimate(0.8514, 0.83, 0.87, 900)) == "0.85 (0.83 to 0.87)"
    assert format_cell(Estimate(1.0, 1.0, 1.0, 20)) == "1.00 (1.00 to 1.00)"
