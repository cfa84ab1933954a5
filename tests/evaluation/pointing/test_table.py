"""Table 3, SM B.2 and the bottom of Fig. 5 against accuracies worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.evaluation.pointing.protocol import class_mean, count_hits
from perceptual_lib.evaluation.pointing.table import pointing_by_sigma, pointing_table, success_rates
from perceptual_lib.evaluation.tables import difference_estimate

# Scene, class, hard. Settings are chosen on s1 and s2.
QUESTIONS = [("s1", 0, False), ("s1", 1, True), ("s2", 0, True), ("s3", 0, False), ("s3", 1, True), ("s4", 0, True)]


def lines(method: str, distances: list, settings: dict, role: str = "table", scale: float = 1.0) -> list[dict]:
    """By question the distances at sigma 0 and 10, or None for a failure."""
    return [
        {
            "role": role,
            "method": method,
            "settings": json.dumps(settings),
            "scale": scale,
            "sigma": sigma,
            "scene": scene,
            "target": target,
            "hard": hard,
            "selection": scene in ("s1", "s2"),
            "failure": "" if both else "ValueError: no map",
            "seconds": 1.0,
            "distance": both[column] if both else np.nan,
        }
        for (scene, target, hard), both in zip(QUESTIONS, distances, strict=False)
        for column, sigma in enumerate([0.0, 10.0])
    ]


HIT, MISS = 14.99, 15.0
OURS = [(HIT, HIT), (MISS, HIT), (HIT, MISS), (MISS, HIT), (MISS, HIT), (HIT, MISS)]
OTHER = [(HIT, HIT), (HIT, MISS), (HIT, HIT), None, (MISS, HIT), (HIT, HIT)]
FREE = [(MISS, MISS)] * 5 + [(HIT, HIT)]


@pytest.fixture
def table() -> pd.DataFrame:
    rows = lines("perceptual", OURS, {"layers": "9-9"}) + lines("grad_cam", OTHER, {})
    rows += lines("no_perceptual", FREE, {"layers": []}) + lines("lost", [None] * 6, {})
    rows += lines("perceptual", [(MISS, MISS)] * 6, {"layers": "9-9"}, scale=1.5)
    rows += lines("perceptual", [(HIT, HIT), (MISS, HIT)], {"layers": "2-4"}, "range")
    return pd.DataFrame(rows)


def test_the_cells_of_table_3(table) -> None:
    scores = pointing_table(table, 1.0)
    assert scores.index.tolist() == ["perceptual", "grad_cam", "no_perceptual", "lost"]
    ours, other = scores.loc["perceptual"], scores.loc["grad_cam"]
    # On s1 and s2 ours has 2 of 2 and 0 of 1 without blur, 1 of 2 and 1 of 1 at sigma 10.
    assert (ours.n, ours.hard_n, ours.scenes, ours.failed, ours.sigma) == (6, 4, 4, 0, 10)
    # At sigma 10: class 0 hits in s1 and s3 of four, class 1 in both of two; of the hard, none of two and two of two.
    assert ours["all"].value == pytest.approx((1 / 2 + 1) / 2) and ours["hard"].value == 0.5
    assert ours["all"].n == 4 and ours["all"].low <= ours["all"].value <= ours["all"].high
    # Held out are s3 and s4: one of two and one of one; of the hard, none of one and one of one.
    assert ours.held_out.value == 0.75 and ours.held_out_hard.value == 0.5
    assert ours.unblurred.value == pytest.approx((3 / 4 + 0) / 2) and ours.difference is None
    # The scene s3, in which one question failed, is left out with both. Sigma 0 hits all of s1, s2 and s4.
    assert (other.n, other.scenes, other.failed, other.sigma) == (4, 3, 1, 0)
    assert other["all"].value == 1 and other["hard"].value == 1
    assert other.held_out is None and other.difference is None  # s4 alone has no interval


def test_ours_at_a_pinned_blur_beside_the_chosen_one(table) -> None:
    plain, both = pointing_table(table, 1.0), pointing_table(table, 1.0, pinned=0.0)
    pinned = ["pinned_sigma", "pinned_all", "pinned_hard"]
    assert both.columns.difference(plain.columns).tolist() == sorted(pinned)
    assert both.drop(columns=pinned).map(str).equals(plain.map(str))
    ours = both.loc["perceptual"]
    # Without blur class 0 hits in s1, s2 and s4 of four, class 1 in none of two; of the hard, s2 and s4, and none.
    assert (ours.sigma, ours.pinned_sigma) == (10, 0) and ours.pinned_all.value == (3 / 4 + 0) / 2
    assert ours.pinned_hard.value == (1 + 0) / 2 and both.drop(index="perceptual")[pinned].isna().all(axis=None)
    assert pointing_table(table, 1.0, pinned=48.0)[pinned].isna().all(axis=None)  # not tried


def test_few_blurs_are_chosen_from_by_leaving_out_the_others(table) -> None:
    few = pointing_table(table[table.sigma < 5], 1.0).loc["perceptual"]
    assert few.sigma == 0 and str(few["all"]) == str(few.unblurred)


def test_the_difference_is_paired_over_the_scenes_held_out(table) -> None:
    difference = pointing_table(table, 1.0).difference["no_perceptual"]
    # On s3 and s4 ours has 1 of 2 and 1 of 1, the other 1 of 2 and 0 of 1.
    assert difference.value == pytest.approx(0.75 - 0.25) and difference.n == 2
    scenes, classes = ["s3", "s3", "s4"], [0, 1, 0]
    by_hand = [count_hits(hits, scenes, classes) for hits in ([1, 1, 0], [0, 0, 1])]
    assert difference == difference_estimate(*by_hand, class_mean)


def test_what_cannot_be_computed_is_empty(table) -> None:
    lost = pointing_table(table, 1.0).loc["lost"]
    assert (lost.n, lost.scenes, lost.failed) == (0, 0, 6) and lost["sigma":"difference"].isna().all()
    unchosen = pointing_table(table.assign(selection=False), 1.0).loc["perceptual"]
    assert unchosen[["sigma", "all", "hard", "held_out", "difference"]].isna().all() and unchosen.unblurred.n == 4
    one = pointing_table(table[table.scene == "s1"], 1.0)
    assert one.sigma["perceptual"] == 10 and one.loc[:, "all":"difference"].isna().all(axis=None)
    alone = pointing_table(table[table.method == "no_perceptual"], 1.0)
    assert alone.held_out["no_perceptual"].n == 2 and alone.difference["no_perceptual"] is None
    assert pointing_table(table[table.sigma > 0], 1.0).unblurred.isna().all()
    assert pointing_table(table, 3.0).empty


def test_classes_to_average_over_may_be_given(table) -> None:
    ours = pointing_table(table, 1.0, among=range(4)).loc["perceptual"]
    assert ours["all"].value == pytest.approx((1 / 2 + 1) / 4)  # two classes that nothing is asked of count as missed


def test_the_papers_numbers_stand_beside_ours(table) -> None:
    paper = pointing_table(table, 1.0)[["paper_all", "paper_hard"]]
    assert paper.loc["perceptual"].tolist() == [0.851, 0.69] and paper.loc["lost"].isna().all()
    assert pointing_table(table, 1.5).loc["perceptual", ["paper_all", "paper_hard"]].tolist() == [0.882, 0.765]


def test_accuracy_over_the_blur(table) -> None:
    curves = pointing_by_sigma(table, 1.0, None)
    assert list(curves) == ["perceptual", "grad_cam", "no_perceptual"]
    sigmas, accuracies = curves["perceptual"]
    assert sigmas.tolist() == [0, 10] and accuracies.value == pytest.approx([0.375, 0.75])
    ours = pointing_table(table, 1.0).loc["perceptual"]
    assert accuracies.low == pytest.approx([ours.unblurred.low, ours["all"].low])
    _, of_four = pointing_by_sigma(table, 1.0, range(4))["perceptual"]
    assert of_four.value[1] == pytest.approx(pointing_table(table, 1.0, among=range(4)).loc["perceptual", "all"].value)


def test_success_rates_are_shares_of_the_selections_questions(table) -> None:
    rates = success_rates(table, 1.0, level=0.5)
    # The range was tried on s1 alone: so all are judged there, on two questions.
    assert rates.role.tolist() == ["table"] * 4 + ["range"] and rates.n.tolist() == [2, 2, 2, 0, 2]
    assert rates.rate.tolist()[:3] == [1, 1, 0] and rates.rate[4] == 1
    assert rates.sigma.tolist()[:3] == [10, 0, 0]  # the first of equals
    # Of the blurs 0, 1, ... 10 ours rises from a half to 1, the other falls from 1 to a half, which is not above it.
    assert rates.share.tolist()[:3] == pytest.approx([10 / 11, 10 / 11, 0])
    assert rates.loc[3, ["rate", "sigma", "share"]].isna().all()
    assert rates["first"].isna().tolist() == [False, True, False, True, False]
    own, free, tried = (tuple(rates.loc[row, ["first", "last"]]) for row in (0, 2, 4))
    assert (own, free, tried) == ((9, 9), (0, -1), (2, 4))


def test_without_ranges_all_of_the_selection_counts(table) -> None:
    rates = success_rates(table[table.role == "table"], 1.0)
    assert rates.n.tolist() == [3, 3, 3, 0]
    assert rates.rate.tolist()[:3] == pytest.approx([2 / 3, 1, 0])
    assert rates.sigma.tolist()[:2] == [0, 0]
    assert rates.share[1] == pytest.approx(6 / 11)  # from 1 to 2/3 it is above 0.82 up to sigma 5.4


def test_a_map_of_ranges_has_the_free_method_in_its_corner(table) -> None:
    rates = success_rates(table, 1.0)
    shown = rates[(rates.role == "range") | (rates.method == "no_perceptual")]
    panel = shown.pivot(index="first", columns="last", values="rate")
    assert panel.index.tolist() == [0, 2] and panel.columns.tolist() == [-1, 4]
    assert panel.loc[0, -1] == 0 and panel.loc[2, 4] == 1
