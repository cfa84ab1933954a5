"""Samples on tables of a few lines, written by hand, whose scores one can read off."""

import json

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.book.scoreboard.rules import MissingData, Verdict, place
from perceptual_lib.book.scoreboard.samples import (
    areas,
    beside,
    blurs_of_last_stages,
    every_range,
    few_blurs,
    growing,
    larger_against_original,
    last_stages,
    layers_and_methods,
    lead_of_ranges,
    low_and_high,
    mean_correlations,
    mean_gains,
    most_or_none,
    scores,
    second_convolution,
    share_larger,
    top_range,
)
from perceptual_lib.evaluation.localization.protocol import STRATEGY_COLUMNS


def listed(frame: pd.DataFrame) -> dict:
    """Columns as lists."""
    return {name: pytest.approx(column.to_list(), nan_ok=True) for name, column in frame.items()}


def localization(hits: dict[str, list[list[int]]], **columns) -> pd.DataFrame:
    """Of four photographs: for each sigma which are hits at the third threshold."""
    lines = []
    for method, by_sigma in hits.items():
        for sigma, found in enumerate(by_sigma):
            for index, hit in enumerate(found):
                of_thresholds = np.zeros(250, bool)
                of_thresholds[STRATEGY_COLUMNS["mean"].start + 2] = hit
                lines.append((method, float(sigma), f"p{index}", index < 2, "", of_thresholds))
    table = pd.DataFrame(lines, columns="method sigma photograph selection failure hits".split())
    return table.assign(role="table", settings="{}", **columns)


def test_errors_are_judged_on_photographs_that_chose_nothing() -> None:
    table = localization({"a": [[0, 1, 0, 1], [1, 1, 1, 0]]})  # the second blur suits the even ones, the first the odd
    assert scores(table, "best error").equals(scores(table, "mean error"))
    assert listed(scores(table, "mean error")) == {"a": [1, 0, 1, 1]}
    assert listed(scores(table, "value error")) == {"a": [1, 1, 1, 1]}  # no hit at any of its thresholds
    assert listed(scores(table, "mean error", by="sigma")) == {0.0: [1] * 4, 1.0: [0, 0, 0, 1]}
    table.loc[table.photograph == "p3", ["failure", "hits"]] = ["no map", None]
    assert listed(scores(table, "mean error")) == {"a": [1, 0, 1]}
    assert scores(table[table.photograph == "p0"], "mean error").empty  # nothing to choose on


def test_the_threshold_is_chosen_on_every_other_photograph() -> None:
    hits = np.zeros((4, 250), bool)
    hits[[0, 2], 3] = True  # best on the even ones; an odd one judges it as a miss
    hits[:2, 5] = True  # one of the odd and one of the even ones
    table = pd.DataFrame({"photograph": list("abcd"), "hits": list(hits), "sigma": 0.0, "failure": "", "role": "table"})
    assert listed(scores(table.assign(selection=True, method="a"), "value error")) == {"a": [0, 1, 1, 1]}


def games() -> pd.DataFrame:
    """Curves that are constant, so that each is its area; of "b" without blur alone."""
    lines = [("a", 0.0, 0.2), ("a", 2.5, 0.4), ("a", 5.0, 0.8), ("b", 0.0, 0.5)]
    return pd.DataFrame(
        {"role": "table", "method": method, "sigma": sigma, "photograph": name, "failure": "", "deletion": [area] * 3}
        | {"insertion": np.array([0, 2 * area, 0], np.float32) + (name == "q")}
        for method, sigma, area in lines
        for name in ("p", "q")
    )


def test_areas_at_the_blurs_that_are_named() -> None:
    assert listed(areas(games(), "insertion", {"a": 2.5})) == {"a": [0.4, 1.4], "b": [0.5, 1.5]}
    assert listed(areas(games(), "deletion", {})) == {"a": [0.2, 0.2], "b": [0.5, 0.5]}
    curve = games()[games().method == "a"]
    assert listed(scores(curve, "deletion", by="sigma")) == {0.0: [0.2] * 2, 2.5: [0.4] * 2, 5.0: [0.8] * 2}


def test_names_join_what_they_call_alike_and_leave_out_what_they_call_nothing() -> None:
    names = {0.0: None, 2.5: "with blur", 5.0: "with blur"}
    table = games()[games().method == "a"]
    assert listed(scores(table, "deletion", by="sigma", names=names)) == {"with blur": [0.6, 0.6]}
    table.loc[(table.photograph == "p") & (table.sigma == 5), "deletion"] = None  # half of a mean is none
    assert listed(scores(table, "deletion", by="sigma", names=names)) == {"with blur": [0.6]}


def test_only_lines_of_the_profiles_own_settings_count_if_nothing_else_is_said() -> None:
    table = games()
    table.loc[table.sigma == 5, "role"] = "sweep"
    assert list(scores(table[table.method == "a"], "deletion", by="sigma")) == [0.0, 2.5]
    roles = ["table", "sweep"]
    assert list(scores(table[table.method == "a"], "deletion", by="sigma", roles=roles)) == [0.0, 2.5, 5.0]


def pointing(distances: dict[tuple[str, float], list[list[float]]], **columns) -> pd.DataFrame:
    """By method and size: for each sigma the distances of two questions, the first one hard, in each of four scenes."""
    lines = [
        (method, scale, float(sigma), f"s{index // 2}", index % 2 == 0, index < 4, distance)
        for (method, scale), by_sigma in distances.items()
        for sigma, found in enumerate(by_sigma)
        for index, distance in enumerate(found)
    ]
    table = pd.DataFrame(lines, columns="method scale sigma scene hard selection distance".split())
    return table.assign(role="table", settings="{}", target=np.arange(len(table)) % 2, **columns)


NEAR, FAR = 14.9, 15.1  # within the tolerance of 15 pixels, and not
FIRST_BLUR = [NEAR, FAR, FAR, FAR, NEAR, NEAR, NEAR, NEAR]
SECOND_BLUR = [NEAR, NEAR, FAR, NEAR, FAR, NEAR, FAR, NEAR]


def test_hits_are_judged_in_scenes_that_chose_no_blur() -> None:
    """s0 and s2 have 3 of 4 hits at either blur: the first of equals judges s1 and s3, which have 2 of 4 at either."""
    table = pointing({("a", 1.0): [FIRST_BLUR, SECOND_BLUR]})
    assert listed(scores(table, "hits")) == {"a": [0.5, 0.0, 1.0, 1.0]}
    assert listed(scores(table, "hits at any blur")) == {"a": [0.75, 0.25, 0.75, 0.75]}
    both = beside(table, {"difficult": "difficult hits", "others": "other hits", "a bound": 0.5})
    assert listed(both) == {"difficult": [1, 0, 1, 1], "others": [0, 0, 1, 1], "a bound": [0.5] * 4}
    assert listed(few_blurs(table, [1.0], "hits")) == {"few": [1, 0.5, 0.5, 0.5], "all": [0.5, 0.0, 1.0, 1.0]}
    table.loc[(table.scene == "s3") & table.hard, "distance"] = np.nan  # a failure costs the scene
    assert listed(scores(table, "hits")) == {"a": [1.0, 0.0, 0.5]}  # now s1 alone chooses the second for s0 and s2
    easy = table[~(table.hard & (table.scene == "s0"))]  # asks no difficult question, and is not judged by any
    assert scores(easy, "difficult hits").index.to_list() == ["s1", "s2"]


def test_blurs_of_the_last_two_stages() -> None:
    ranges = {"0-2": [FAR] * 8, "3-6": FIRST_BLUR, "0-6": SECOND_BLUR, "7-9": [NEAR] * 8}
    tables = [
        pointing({("perceptual", 1.0): [found, [FAR] * 8]}).assign(
            role="range", settings=json.dumps({"layers": layers})
        )
        for layers, found in ranges.items()
    ]
    found = blurs_of_last_stages(pd.concat(tables))
    assert listed(found["last"]) == {0.0: [1] * 4, 1.0: [0] * 4}
    assert listed(found["before"]) == {0.0: [0.5, 0, 1, 1], 1.0: [0] * 4}
    with pytest.raises(MissingData, match="two stages"):
        blurs_of_last_stages(tables[0])


def test_gains_from_the_larger_size() -> None:
    near, far = [NEAR] * 8, [FAR] * 8
    table = pointing(
        {("a", 1.0): [far], ("a", 1.5): [near], ("b", 1.0): [near], ("b", 1.5): [near], ("c", 1.0): [near]}
    )
    assert listed(scores(table, "gain", names={"b": None})) == {"a": [1] * 4}
    expected = {"weaker": [1] * 4, "stronger": [0] * 4, "none": [0] * 4}
    assert listed(mean_gains(table, weaker=["a", "c"], stronger=["b"])) == expected
    assert listed(mean_gains(table, all=["a", "b"])) == {"all": [0.5] * 4, "none": [0] * 4}
    many = pd.concat(table.assign(scene=f"{part} " + table.scene) for part in range(2))
    found = place(mean_gains(many, weaker=["a", "c"], stronger=["b", "d"]), "weaker", ["stronger"])
    assert (found.verdict, found.missing) == (Verdict.REPRODUCED, ("c", "d"))
    assert found.measured.endswith("; not here, or on too few rows: c, d")
    assert place(mean_gains(many, weaker=["a", "c"], stronger=["b", "d"]), "stronger", ["none"]).missing == ("d",)
    with pytest.raises(MissingData, match="weaker and stronger methods at both sizes"):
        mean_gains(table, weaker=["a"], stronger=["c"])
    found = larger_against_original(table, "a")
    assert listed(found)["a"] == [1] * 4 and listed(found)["a at the original size"] == [0] * 4
    assert list(found.drop(columns="a")) == [f"{method} at the original size" for method in "abc"]
    with pytest.raises(MissingData, match="c at 1.5 times"):
        larger_against_original(table, "c")


def randomization() -> pd.DataFrame:
    layers = {1: "classifier", 2: "conv_head", 3: "blocks.6"}
    return pd.DataFrame(
        {"role": "table", "method": method, "seed": seed, "photograph": name, "stage": stage}
        | {"layer": layers.get(stage, ""), "correlation": 1 - stage / 10 - seed / 100 - (method == "b") / 2}
        for method in "ab"
        for seed in (0, 1)
        for name in "pq"
        for stage in range(4)
    )


def test_stages_of_untrained_networks_are_means_over_seeds() -> None:
    of_one = randomization().query("method == 'a'")
    expected = {stage: [1 - stage / 10 - 0.005] * 2 for stage in range(4)}
    assert listed(scores(of_one, "correlation", by="stage")) == expected
    assert listed(second_convolution(of_one)) == {"correlation": [0.695, 0.695], "a half": [0.5, 0.5]}  # of blocks.6
    assert listed(mean_correlations(randomization())) == {"a": [0.795, 0.795], "b": [0.295, 0.295]}  # not stage 0
    with pytest.raises(MissingData, match="two convolutions"):
        second_convolution(of_one[of_one.stage < 3])


def change(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """By method and layers: how much lies inside, of photographs."""
    return pd.DataFrame(
        {"role": "range" if "-" in layers else "table", "method": method, "photograph": f"p{index}", "failure": ""}
        | {"settings": json.dumps({"layers": layers} if layers else {}), "inside": inside, "margin": inside - 0.5}
        | {"size": 10 ** (10 * inside)}
        for (method, layers), found in values.items()
        for index, inside in enumerate(found)
    )


def test_changes() -> None:
    table = change({("perceptual", ""): [0.2, 0.5, 0.8, np.nan], ("no_perceptual", ""): [0.1, 0.2, 0.3, 0.4]})
    assert listed(scores(table, "flipped"))["perceptual"] == [1, 1, 0, np.nan]  # a margin of 0 is another class
    larger = share_larger(table, "size", "perceptual", "no_perceptual")
    assert listed(larger) == {"larger": [1, 1, 1], "a half": [0.5] * 3}  # of those that have both
    assert listed(share_larger(table, "size", "no_perceptual", "perceptual"))["larger"] == [0, 0, 0]
    with pytest.raises(MissingData, match="growth: not measured there"):
        scores(table, "growth")
    of_one = table[table.method == "perceptual"]
    assert listed(beside(of_one, {"inside": "inside", "a half": 0.5})) == {
        "inside": [0.2, 0.5, 0.8],
        "a half": [0.5] * 3,
    }


RANGES = {"0-2": [0.1, 0.2], "0-6": [0.5, 0.8], "0-10": [0.5, 0.6], "3-10": [0.3, 0.2], "7-10": [0.4, 0.9]}


def test_ranges_of_layers() -> None:
    own = {("perceptual", ""): [0.9] * 4, ("no_perceptual", ""): [0.0, 0.1, 0.2, 0.3], ("rise", ""): [0.7]}
    table = change(own | {("perceptual", layers): found for layers, found in RANGES.items()})
    assert listed(growing(table, "inside")) == {-1: [0.0, 0.1], 2: [0.1, 0.2], 6: [0.5, 0.8]}  # without the last
    assert set(top_range(table, "inside")) == {"0-2", "0-6", "0-10", "3-10", "top"}
    assert listed(top_range(table, "inside"))["top"] == RANGES["7-10"]
    assert listed(most_or_none(table, "inside")) == {"most layers": [0.5, 0.8], "no layers": [0.0, 0.1]}  # 7 of 11
    low = {"low layers": [0.1, 0.1], "other layers": [(0.5 + 0.5 + 0.3 + 0.4) / 4, (0.7 + 0.5 + 0.1 + 0.8) / 4]}
    assert listed(low_and_high(table, "inside")) == low
    assert listed(last_stages(table, "inside")) == {"last": RANGES["7-10"], "before": RANGES["0-6"]}
    leads = lead_of_ranges(table, "inside")
    assert leads[7, 10].to_list() == pytest.approx([0.4, 0.8]) and len(leads.columns) == 5
    groups = layers_and_methods(table, "inside")
    assert list(groups["layers"]) == ["(0, 2)", "(0, 6)", "(0, 10)", "(3, 10)", "(7, 10)"]
    assert listed(groups["methods"]) == {"perceptual": [0.9, 0.9], "no_perceptual": [0.0, 0.1]}  # RISE lacks one


def test_every_range_of_the_papers_networks() -> None:
    """Of VGG19bn 16 activations, of VGG16 13, each range of which is tried; other networks have stages."""
    for count, ranges in ((16, 136), (13, 91)):
        spans = [f"{first}-{last}" for last in range(count) for first in range(last + 1)]
        table = change({("perceptual", span): [index / 200] for index, span in enumerate(spans)})
        found = every_range(table, "inside", count)
        assert listed(found) == {span: [index / 200] for index, span in enumerate(spans)} and len(spans) == ranges
        table = pd.concat(
            [table, table[:1].assign(settings='{"layers": []}')]
        )  # the corner of Fig. 5, which is no range
        assert every_range(table, "inside", count).equals(found)
        with pytest.raises(MissingData, match="all ranges of 5 activations"):
            every_range(table, "inside", 5)
        with pytest.raises(MissingData, match="ranges of layers"):
            every_range(table, "inside", count, "perceptual_guided")
    alone = {"last": [spans.index("12-12") / 200], "before": [spans.index("9-9") / 200]}  # not the 11th
    assert listed(last_stages(table, "inside")) == alone


def test_ranges_that_are_not_there() -> None:
    table = change({("perceptual", ""): [0.9] * 4})
    for sample in (growing, top_range, most_or_none, lead_of_ranges, low_and_high, last_stages, layers_and_methods):
        with pytest.raises(MissingData, match="ranges of layers"):
            sample(table, "inside")
    table = change({("perceptual", layers): [0.9] * 4 for layers in ("0-2", "0-3")})
    for sample in (growing, most_or_none, lead_of_ranges):
        with pytest.raises(MissingData, match="no_perceptual"):
            sample(table, "inside")
