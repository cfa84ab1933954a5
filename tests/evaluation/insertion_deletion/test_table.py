"""Table 2, Fig. 6 and the middle of Fig. 5 against areas worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.evaluation.insertion_deletion.table import (
    average_curves,
    by_sigma,
    insertion_deletion_table,
    range_scores,
)
from perceptual_lib.evaluation.tables import format_table


def lines(method: str, sigma: float, areas: dict, role: str = "table", layers: str = "0-9") -> list[dict]:
    """By photograph the areas (insertion, deletion), of curves that are straight but for the ends, or a failure."""
    return [
        {
            "role": role,
            "method": method,
            "settings": json.dumps({"layers": layers} if method == "perceptual" else {}),
            "sigma": sigma,
            "photograph": name,
            "selection": name == "a",
            "failure": both if isinstance(both, str) else "",
            "seconds": 1.0,
            "insertion": None if isinstance(both, str) else curve(both[0]),
            "deletion": None if isinstance(both, str) else curve(both[1]),
        }
        for name, both in areas.items()
    ]


def curve(area: float) -> np.ndarray:
    """Three scores 0, y, 0: two trapezoids of y / 4 each."""
    return np.array([0, 2 * area, 0])


SHARP = {"a": (0.30, 0.05), "b": (0.20, 0.10), "c": (0.25, 0.06)}
SMOOTH = {"a": (0.40, 0.10), "b": (0.30, 0.20), "c": (0.41, 0.15)}
OTHER = {"c": (0.11, 0.20), "b": "ValueError: no map", "a": (0.20, 0.10)}


@pytest.fixture
def table() -> pd.DataFrame:
    rows = lines("rise", 0.0, OTHER) + lines("perceptual", 0.0, SHARP) + lines("perceptual", 5.0, SMOOTH)
    rows += lines("lost", 0.0, dict.fromkeys("abc", "RuntimeError: out of luck"))
    rows += lines("perceptual", 5.0, {"a": (0.4, 0.1)}, "sweep")  # also in Table 2
    rows += lines("perceptual", 9.0, {"b": (0.6, 0.3), "a": (0.5, 0.2)}, "sweep")
    rows += lines("perceptual", 0.0, {"a": (0.1, 0.08), "b": (0.1, 0.02)}, "range", "2-4")
    rows += lines("perceptual", 5.0, {"a": (0.3, 0.30), "b": (0.1, 0.30)}, "range", "2-4")
    rows += lines("perceptual", 0.0, {"a": (0.1, 0.08), "b": "failed"}, "range", "3-3")
    rows += lines("perceptual", 5.0, {"a": (0.3, 0.30), "b": "failed"}, "range", "3-3")
    return pd.DataFrame(rows)


def test_the_cells_of_table_2(table) -> None:
    scores = insertion_deletion_table(table)
    assert scores.index.tolist() == [("rise", 0.0), ("perceptual", 0.0), ("perceptual", 5.0), ("lost", 0.0)]
    rise, sharp, smooth = (scores.iloc[row] for row in range(3))
    assert (rise.n, rise.failed, sharp.n, sharp.failed) == (2, 1, 3, 0)
    assert (rise.deletion.value, rise.insertion.value) == pytest.approx((0.15, 0.155))
    assert (sharp.deletion.value, smooth.insertion.value) == pytest.approx((0.07, 0.37))
    # On a and c: without blur 0.05 and 0.06 less 0.10 and 0.20; at sigma 5 0.40 and 0.41 less 0.20 and 0.11.
    assert rise.deletion_difference.value == pytest.approx(-0.095) and rise.deletion_difference.n == 2
    assert rise.insertion_difference.value == pytest.approx(0.25)
    assert (rise.insertion_difference.low, rise.insertion_difference.high) == pytest.approx((0.2, 0.3))
    assert sharp.deletion_difference is None and smooth.insertion_difference is None  # itself
    assert sharp.insertion_difference.value == pytest.approx(0.12)
    assert smooth.deletion_difference.value == pytest.approx(-0.08)


def test_the_papers_numbers_stand_beside_ours(table) -> None:
    scores = insertion_deletion_table(table)
    paper = scores[["paper_deletion", "paper_insertion"]]
    assert paper.loc[("rise", 0.0)].tolist() == [0.12, 0.65] and paper.loc[("perceptual", 5.0)].tolist() == [0.12, 0.63]
    assert paper.loc[("perceptual", 0.0)].tolist() == [0.07, 0.54] and paper.loc[("lost", 0.0)].isna().all()


def test_what_cannot_be_computed_is_empty(table) -> None:
    lost = insertion_deletion_table(table).loc[("lost", 0.0)]
    assert (lost.n, lost.failed) == (0, 3)
    empty = ["deletion", "insertion", "deletion_difference", "insertion_difference"]
    assert lost[empty].isna().all()
    assert insertion_deletion_table(table[table.photograph == "a"])[empty].isna().all(axis=None)
    alone = insertion_deletion_table(table[table.method == "rise"])  # nothing to compare with
    assert alone.deletion.iloc[0].n == 2 and alone[empty[2:]].isna().all(axis=None)
    assert insertion_deletion_table(table[:0]).empty


def test_the_table_is_written_with_both_keys(table) -> None:
    scores = insertion_deletion_table(table)
    cells = [cell.strip() for cell in format_table(scores, "markdown").splitlines()[2].split("|")]
    assert cells[1:7] == ["rise", "0", "2", "1", "8000", "0.15 (0.10 to 0.20)"]
    assert format_table(scores, "csv").splitlines()[0].startswith("method,sigma,n,failed,passes,deletion,deletion_low")
    assert format_table(scores, "latex").splitlines()[4].startswith("rise & 0 & 2 & 1 & 8000 &")


def test_average_curves(table) -> None:
    curves = average_curves(table)
    assert list(curves) == [("rise", 0.0), ("perceptual", 0.0), ("perceptual", 5.0)]
    assert curves["rise", 0.0]["deletion"].value == pytest.approx([0, 0.3, 0])
    assert curves["perceptual", 5.0]["insertion"].value == pytest.approx([0, 0.74, 0])


def test_blurs_are_compared_on_the_photographs_that_have_all(table) -> None:
    curves = by_sigma(table)
    assert set(curves) == {"insertion", "deletion"}
    sigmas, insertion = curves["insertion"]
    assert sigmas.tolist() == [0, 5, 9] and insertion.n == 2  # c has no sigma 9
    assert insertion.value == pytest.approx([0, 0.1, 0.3])
    assert (insertion.low[0], insertion.high[0]) == (0, 0)  # nothing is added to itself, on no photograph
    assert curves["deletion"][1].value == pytest.approx([0, 0.075, 0.175])
    assert by_sigma(table[table.photograph == "a"]) == {} and by_sigma(table[table.method == "lost"]) == {}


def test_ranges_stand_beside_the_profiles_own(table) -> None:
    scores = range_scores(table)
    assert scores.columns.tolist() == "role method first last n deletion insertion spread".split()
    assert scores.role.tolist() == ["range", "range", "table"]
    assert scores[["first", "last", "n"]].to_numpy().tolist() == [[2, 4, 2], [3, 3, 1], [0, 9, 2]]
    # Own, on a and b: deletion 0.05 and 0.10 without blur, insertion 0.40 and 0.30 at sigma 5.
    assert scores.deletion.tolist() == pytest.approx([0.05, 0.08, 0.075])
    assert scores.insertion.tolist() == pytest.approx([0.2, 0.3, 0.35])
    assert scores.spread.tolist() == pytest.approx([0.15, 0.22, 0.275])
    assert range_scores(table[table.role == "table"]).empty


def test_no_layers_are_a_corner_of_the_triangle(table) -> None:
    free = [
        {**line, "settings": json.dumps({"layers": []})}
        for sigma, insertion in ((0.0, 0.1), (2.5, 0.9), (5.0, 0.2))
        for line in lines("no_perceptual", sigma, dict.fromkeys("abc", (insertion, insertion / 10)))
    ]
    scores = range_scores(pd.concat([table, pd.DataFrame(free)]))
    corner = scores[scores["last"] == -1]
    # On a and b, as the ranges: deletion without blur, insertion at sigma 5.
    assert corner.to_dict("records") == [
        {"role": "range", "method": "perceptual", "first": 0, "last": -1, "n": 2}
        | {"deletion": pytest.approx(0.01), "insertion": pytest.approx(0.2), "spread": pytest.approx(0.19)}
    ]
    assert len(scores) == 4 and range_scores(table[table.role == "table"]).empty
