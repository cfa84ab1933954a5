"""From weak localization's table to Table 1, against numbers worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.evaluation.localization.table import Scores, difference, localization_table, table_scores
from perceptual_lib.evaluation.tables import format_table, paper_table

NAMES = ["a", "b", "c", "d"]  # settings are chosen on a and b
SIGMAS = [0.0, 5.0]


def lines(method: str, hits: dict[str, dict[float, set[int]] | str], role: str = "table") -> list[dict]:
    """Of a table: by photograph, the columns that are hits at each blur, or why there is no result."""
    return [
        {
            "role": role,
            "method": method,
            "settings": json.dumps({}),
            "sigma": sigma,
            "photograph": name,
            "selection": name in NAMES[:2],
            "failure": of_image if isinstance(of_image, str) else "",
            "seconds": 1.0,
            "hits": None if isinstance(of_image, str) else np.isin(np.arange(250), list(of_image[sigma])),
        }
        for name, of_image in hits.items()
        for sigma in SIGMAS
    ]


OURS = {
    "a": {0.0: {3}, 5.0: {7}},
    "b": {0.0: set(), 5.0: {7, 30}},
    "c": {0.0: {3}, 5.0: {7, 100}},
    "d": {0.0: {3}, 5.0: {30, 100}},
}
OTHER = {
    "a": {0.0: {50}, 5.0: set()},
    "b": "ValueError: no map",
    "c": {0.0: set(), 5.0: {50}},
    "d": {0.0: {50, 51}, 5.0: {51}},
}


@pytest.fixture
def table() -> pd.DataFrame:
    trial = lines("perceptual", {"a": {0.0: set(), 5.0: set()}}, "range")  # no part of Table 1
    nothing = lines("rise", dict.fromkeys(NAMES, "RuntimeError: out of luck"))
    return pd.DataFrame(lines("perceptual", OURS) + trial + lines("gradient", OTHER) + nothing)


def test_settings_are_chosen_on_the_selection(table) -> None:
    scores = table_scores(table)
    assert list(scores) == ["perceptual", "gradient", "rise"]
    ours = scores["perceptual"]
    assert ours.choose() == (1, 7)  # both of a and b, which sigma 0 never is
    assert ours.by_sigma("value").value.tolist() == [1 / 4, 1 / 4]  # 3 hits all but b; 7 all but d
    assert ours.by_alpha("value").value[[3, 7]].tolist() == [1, 1 / 4]
    assert scores["gradient"].choose() == (0, 50)  # a alone decides: b failed
    reversed_roles = table.assign(selection=~table.selection)  # c and d choose: of equals the first
    assert table_scores(reversed_roles)["perceptual"].choose() == (0, 3)
    assert not scores["rise"].can_choose


def test_the_cells_of_table_1(table) -> None:
    errors = localization_table(table)
    ours, other = errors.loc["perceptual"], errors.loc["gradient"]
    assert (ours.n, ours.failed, ours.sigma) == (4, 0, 5.0) and (other.n, other.failed, other.sigma) == (3, 1, 0.0)
    # Hits of four at sigma 5: 7 by value in a, b, c; 30 by percent in b, d; 100 by mean in c, d.
    assert [ours[name].value for name in ("value", "percent", "mean", "best")] == [0.25, 0.5, 0.5, 0.25]
    # Hits of three at sigma 0: 50 by mean in a, d.
    assert [other[name].value for name in ("value", "percent")] == [1, 1]
    assert [other[name].value for name in ("mean", "best")] == pytest.approx([1 / 3, 1 / 3])
    # Held out are c and d: ours hits c, theirs d.
    assert ours.held_out.value == 0.5 and ours.held_out.n == 2 and other.held_out.value == 0.5
    assert other.difference.value == 0 and other.difference.n == 2 and ours.difference is None
    # At sigma 5, b and d choose 30 for a and c, two misses; a and c choose 7 for b, a hit, and d, a miss.
    assert ours.cross_validated.value == 0.75 and ours.cross_validated.n == 4
    # Explained are a, c, d at sigma 0. c alone chooses the first of all for a and d, a miss; a and d choose 50 for c.
    assert other.cross_validated.value == 1 and other.cross_validated.n == 3


def test_errors_at_a_pinned_blur_beside_those_at_the_chosen_one(table) -> None:
    plain, both = localization_table(table), localization_table(table, pinned=0.0)
    pinned = ["pinned_value", "pinned_percent", "pinned_mean", "pinned_best"]
    assert both.columns.difference(plain.columns).tolist() == sorted(pinned)
    assert both.drop(columns=pinned).map(str).equals(plain.map(str))
    # Without blur, ours hits a, c and d at threshold 3, of "value", and nothing else; it has chosen sigma 5.
    ours = both.loc["perceptual"]
    assert ours.sigma == 5 and [ours[name].value for name in pinned] == [0.25, 1, 1, 0.25]
    other = both.loc["gradient"]  # whose own choice is sigma 0
    assert other.sigma == 0 and [str(other[f"pinned_{each}"]) for each in ("value", "best")] == [
        str(other[each]) for each in ("value", "best")
    ]
    assert both.loc["rise", pinned].isna().all() and localization_table(table, pinned=7.0)[pinned].isna().all(axis=None)


def test_method_that_failed_everywhere_keeps_its_row(table) -> None:
    row = localization_table(table).loc["rise"]
    assert (row.n, row.failed) == (0, 4)
    assert row[["sigma", "value", "best", "cross_validated", "held_out", "difference"]].isna().all()
    cells = format_table(localization_table(table), "markdown").splitlines()[4].split("|")
    assert [cell.strip() for cell in cells[1:7]] == ["rise", "0", "4", "8000", "", ""]


def test_too_few_photographs_leave_cells_empty(table) -> None:
    one = localization_table(table[table.photograph == "a"])
    assert one.n["perceptual"] == 1 and one.sigma["perceptual"] == 0.0
    assert one.loc[:, "value":"difference"].isna().all(axis=None)  # one has no interval
    alone = localization_table(table[table.method == "gradient"])
    assert alone.held_out["gradient"].value == 0.5 and alone.difference["gradient"] is None  # nothing to compare with


def test_difference_is_paired_over_what_both_explained() -> None:
    ours = Scores.of(pd.DataFrame(lines("perceptual", OURS)))
    other = Scores.of(pd.DataFrame(lines("x", OURS | {"c": "gone", "d": {0.0: set(), 5.0: {7}}})))
    assert difference(ours, other) is None  # d alone, and one photograph has no interval
    theirs = Scores.of(pd.DataFrame(lines("x", OURS | {"d": {0.0: set(), 5.0: {7}}})))
    estimate = difference(ours, theirs)  # c as it is; d: ours misses, theirs hits
    assert (estimate.value, estimate.n) == (0.5, 2) and difference(theirs, ours).value == -0.5
    nothing = Scores.of(pd.DataFrame(lines("x", OURS | {"c": "gone", "d": "gone"})))
    assert difference(ours, nothing) is None and nothing.held_out_misses.empty


def test_the_papers_numbers_stand_beside_ours(table) -> None:
    paper = paper_table("table1")
    errors = localization_table(table)
    for name in ("value", "percent", "mean", "best"):
        assert errors[f"paper_{name}"]["perceptual"] == paper[name]["perceptual"]
    assert paper.loc["perceptual"].tolist() == [0.44, 0.44, 0.43, 0.43]  # Table 1 of the paper
