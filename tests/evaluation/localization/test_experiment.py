"""Weak localization as an experiment: its rows, and the protocol's hits in its table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import Layered, finished, small_profile

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.localization.protocol import localize
from perceptual_lib.evaluation.localization.table import trials
from perceptual_lib.evaluation.places import scale_and_blur
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.runs.executors import Local

METHODS = ["gradient", "smoothgrad", "no_perceptual", "perceptual", "perceptual_guided"]


def localization(**changes) -> Profile:
    """Eight photographs by threes; the network has the ranges 0-0, 0-1 and 1-1."""
    section = {"methods": METHODS, "sigmas": [0.0, 4.0], "selection": 2, "subsets": {"smoothgrad": 4}}
    return small_profile(localization=section | {"settings": {"smoothgrad": {"samples": 2}}} | changes)


def experiment(folder: Path, **changes) -> Localization:
    return Localization(localization(**changes), folder / "store", Local({"model": Layered()}))


def test_the_rows_of_a_profile(tmp_path, of_profiles) -> None:
    rows = experiment(tmp_path, ranges=2, layer_weights=[7.0]).rows
    counts = {"smoothgrad": 4}
    assert [(row.role, row.method, len(row.photographs)) for row in rows[:5]] == [
        ("table", method, counts.get(method, 8)) for method in METHODS
    ]
    trials = [(row.role, row.method, row.settings["layers"], row.settings["layer_weight"]) for row in rows[5:]]
    both = ("perceptual", "perceptual_guided")
    assert trials == [
        *(("range", method, layers, 1.0) for layers in ("0-0", "0-1", "1-1") for method in both),
        ("range", "perceptual_guided", [], 0.0),
        *(("weight", method, "0-0", 7.0) for method in both),
    ]
    assert {row.photographs for row in rows[5:]} == {tuple(of_profiles[:2])}
    others = experiment(tmp_path, ranges=5, ranges_after=2).rows
    assert {row.photographs for row in others if row.role == "range"} == {tuple(of_profiles[2:5])}
    others = experiment(tmp_path, ranges=5, ranges_after=2, range_pictures={"0-1": 8}).rows
    asked = {(str(row.settings["layers"]), len(row.photographs)) for row in others if row.role == "range"}
    assert asked == {("0-0", 3), ("0-1", 6), ("1-1", 3), ("[]", 6)}
    with pytest.raises(InputError, match="range_pictures names 0-2, which is no range of 0-0, 0-1, 1-1"):
        _ = experiment(tmp_path, ranges=5, range_pictures={"0-2": 8}).rows
    assert rows[0].settings == {} and rows[1].settings == {"samples": 2}
    assert rows[2].settings["layers"] == [] and rows[3].settings["max_iter"] == 2


def test_how_well_boxes_fit_is_read_and_not_computed_again(tmp_path, of_profiles, monkeypatch) -> None:
    tried, name = finished(Localization, tmp_path, localization()), of_profiles[4].name
    found = tried.overlaps("smoothgrad", 4.0, 30)
    assert len(found) == 4 and found.keys() == tried.maps("smoothgrad").keys()
    blurred = scale_and_blur(torch.from_numpy(tried.maps("perceptual", [name])[name])[None], 4.0)
    expected = localize(blurred, [of_profiles[4].scaled_boxes(224, 224)])[0, 30]
    monkeypatch.setattr(tried, "maps", None)
    assert tried.overlaps("perceptual", 4.0, 30)[name] == pytest.approx(expected, abs=1e-6)


def test_maps_are_computed_once_for_all_that_need_them(tmp_path, of_profiles) -> None:
    tried, states = experiment(tmp_path, ranges=2), []
    tried.run.report = lambda shard, state: states.append((shard, state))
    tried.complete()
    finished = [shard for shard, state in states if state == "finished"]
    # By threes, eight photographs take 3 shards, and the subset of four takes 2. Guided shares with unguided, and so
    # do the ranges of the first two photographs and no layers held, guided; all have other shards than the profile's.
    maps = [shard for shard in finished if shard.needs is None]
    assert len(maps) == 3 + 2 + 3 + 3 + 3 + 1 and len({tried.run.key(shard) for shard in finished}) == len(finished)
    assert len(finished) - len(maps) == 3 + 2 + 3 + 3 + 3 + 2 * 3 + 1  # scores
    assert tried.unfinished == []
    # The time of maps that two rows share counts once.
    seconds = [tried.run.load(shard)["seconds"].sum() for shard in finished]
    assert set(map(tried.run.key, tried.shards)) == set(map(tried.run.key, finished))
    assert tried.manifest["seconds"] == round(sum(seconds)) and len(tried.shards) == len(finished)


def test_no_layers_are_a_corner_of_both_triangles(tmp_path, of_profiles) -> None:
    table = finished(Localization, tmp_path, localization(ranges=2)).table
    errors = trials(table)
    panels = errors[errors.role == "range"]
    for _, panel in panels.groupby("method"):
        triangle = panel.pivot(index="first", columns="last", values="n")
        assert triangle.columns.tolist() == [-1, 0, 1] and triangle[-1].dropna().to_dict() == {0: 2}
    free = table[(table.role == "table") & (table.method == "no_perceptual")]
    corner = panels[(panels.method == "perceptual") & (panels["last"] == -1)]
    hits = [np.stack(rows.hits.tolist())[:, :20] for _, rows in free[free.photograph.isin(["0", "1"])].groupby("sigma")]
    assert corner.error.item() == min(1 - each.mean(0).max() for each in hits)


def test_the_table_holds_the_protocols_hits(tmp_path, of_profiles) -> None:
    tried = finished(Localization, tmp_path, localization())
    shard = next(shard for about, shard in tried.pieces if about["method"] == "perceptual_guided")
    maps = torch.from_numpy(tried.run.load(shard.needs)["guided"].astype(np.float32))
    boxes = [photograph.scaled_boxes(224, 224) for photograph in of_profiles[:3]]
    table = tried.table
    assert len(table) == 2 * (4 * 8 + 4) and (table.failure == "").all()
    for sigma in (0.0, 4.0):
        lines = table[(table.method == "perceptual_guided") & (table.sigma == sigma)]
        expected = localize(scale_and_blur(maps, sigma), boxes).astype(np.float32) >= 0.5
        assert lines.photograph.tolist() == [photograph.name for photograph in of_profiles]
        assert np.array_equal(np.stack(lines.hits.tolist())[:3], expected)
