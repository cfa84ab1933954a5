"""From a profile to rows, shards, a table and its manifest."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from stand_ins import make_photographs
from torch import nn

from perceptual_lib.core.activations import Activation
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import Localization, load_results, publish
from perceptual_lib.evaluation.localization.protocol import localize, scale_and_blur
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.rows import draw_subset, layer_ranges
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.executors import Local
from perceptual_lib.runs.shard import digest, versions

METHODS = ["gradient", "smoothgrad", "no_perceptual", "perceptual", "perceptual_guided"]


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> list[Photograph]:
    photographs = make_photographs(tmp_path / "photographs", 5)
    monkeypatch.setattr(Profile, "load_photographs", lambda self: photographs)
    return photographs


def profile(**localization) -> Profile:
    return Profile(
        name="mine",
        description="For tests.",
        perturbation={"layers": "0-0", "layer_weight": 1.0, "max_iter": 2},
        batch_size=2,
        methods={"smoothgrad": {"samples": 2}, "no_perceptual": {"max_iter": 2}},
        localization={"methods": METHODS, "sigmas": [0.0, 4.0], "selection": 2, "subsets": {"smoothgrad": 3}}
        | localization,
    )


def experiment(tmp_path: Path, settings: Profile | None = None, **arguments) -> Localization:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.MaxPool2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(784, 5)
        )
    return Localization(settings or profile(), tmp_path / "store", Local({"model": network.eval()}), **arguments)


def activations(*sizes: int) -> list[Activation]:
    return [Activation(f"{i}", "relu", (i + 1, size, size)) for i, size in enumerate(sizes)]


def test_ranges_by_activation_and_by_stage() -> None:
    network = activations(8, 8, 4, 2, 2)
    assert layer_ranges(network, "stage") == ["0-1", "0-2", "0-4", "2-2", "2-4", "3-4"]
    assert layer_ranges(network[:3], "activation") == ["0-0", "0-1", "0-2", "1-1", "1-2", "2-2"]


def test_subsets_are_drawn_with_a_fixed_seed(photographs) -> None:
    assert draw_subset(range(100), 5) == (5, 33, 49, 53, 97)
    assert draw_subset(photographs, None) == draw_subset(photographs, 9) == tuple(photographs)


def test_the_rows_of_a_profile(tmp_path, photographs) -> None:
    tried = experiment(tmp_path, profile(ranges=2, layer_weights=[7.0]))
    assert [(row.role, row.method, len(row.photographs)) for row in tried.rows[:5]] == [
        ("table", "gradient", 5),
        ("table", "smoothgrad", 3),
        ("table", "no_perceptual", 5),
        ("table", "perceptual", 5),
        ("table", "perceptual_guided", 5),
    ]
    trials = [(row.role, row.method, row.settings["layers"], row.settings["layer_weight"]) for row in tried.rows[5:]]
    both = ("perceptual", "perceptual_guided")
    assert trials == [("range", method, layers, 1.0) for layers in ("0-0", "0-1", "1-1") for method in both] + [
        ("weight", method, "0-0", 7.0) for method in both
    ]
    assert {row.photographs for row in tried.rows[5:]} == {tuple(photographs[:2])}
    assert tried.rows[0].settings == {} and tried.rows[1].settings == {"samples": 2}
    assert tried.rows[2].settings["layers"] == [] and tried.rows[3].settings["max_iter"] == 2


def test_maps_are_computed_once_for_all_that_need_them(tmp_path, photographs) -> None:
    states = []
    tried = experiment(tmp_path, profile(ranges=2))
    tried.run.report = lambda shard, state: states.append((shard, state))
    tried.complete()
    finished = [shard for shard, state in states if state == "finished"]
    # By twos, five photographs take 3 shards, and the subset of three takes 2. Guided shares with unguided, and the
    # range 0-0 of the first two photographs with the profile's own settings.
    maps = [shard for shard in finished if shard.needs is None]
    assert len(maps) == 3 + 2 + 3 + 3 + 2 and len({tried.run.key(shard) for shard in finished}) == len(finished)
    assert len(finished) - len(maps) == 3 + 2 + 3 + 3 + 3 + 2 + 2  # scores; those of range 0-0 are there too
    assert tried.unfinished == []


def test_the_table_holds_the_protocols_hits(tmp_path, photographs) -> None:
    tried = experiment(tmp_path)
    tried.complete()
    shard = next(shard for about, shard in tried.pieces if about["method"] == "perceptual_guided")
    maps = torch.from_numpy(tried.run.load(shard.needs)["guided"].astype(np.float32))
    boxes = [photograph.scaled_boxes(224, 224) for photograph in photographs[:2]]
    table = tried.table
    assert len(table) == 2 * (4 * 5 + 3) and (table.failure == "").all()
    for sigma, blurred in zip([0.0, 4.0], scale_and_blur(maps, [0.0, 4.0]), strict=True):
        lines = table[(table.method == "perceptual_guided") & (table.sigma == sigma)]
        expected = localize(blurred, boxes).astype(np.float32) >= 0.5
        assert lines.photograph.tolist() == [photograph.name for photograph in photographs]
        assert np.array_equal(np.stack(lines.hits.tolist())[:2], expected)


def test_failures_stand_in_the_table_and_the_manifest(tmp_path, photographs) -> None:
    for photograph in photographs[2:4]:  # a shard without any image
        photograph.path.write_bytes(b"no picture")
    tried = experiment(tmp_path, only=["gradient", "perceptual"])
    tried.complete()
    failed = tried.table[tried.table.failure != ""]
    assert len(failed) == 2 * 2 * 2 and set(failed.photograph) == {"2", "3"} and failed.hits.isna().all()
    assert failed.failure.str.contains("not a picture").all() and len(tried.table) == 2 * 2 * 5
    assert [(each["method"], each["photograph"]) for each in tried.manifest["failures"]] == [
        (method, name) for method in ("gradient", "perceptual") for name in ("2", "3")
    ]
    assert all("not a picture" in each["failure"] for each in tried.manifest["failures"])


def test_the_manifest_says_what_made_the_table(tmp_path, photographs) -> None:
    tried = experiment(tmp_path)
    tried.complete()
    manifest = tried.manifest
    others = {"insertion_deletion", "pointing", "randomization", "change"}
    assert (
        manifest["profile"] == tried.profile.model_dump(mode="json", exclude=others)
        and manifest["seeds"]["subsets"] == 0
    )
    assert manifest["network"]["device"] == "cpu" and manifest["versions"] == versions()
    assert "cores" in manifest["machine"]
    assert manifest["network"] == tried.run.executor.worker.identity() and len(manifest["network"]["weights"]) == 64
    pairs = [(photograph.name, hashlib.sha256(photograph.path.read_bytes()).hexdigest()) for photograph in photographs]
    assert manifest["photographs"] == {"n": 5, "sha256": hashlib.sha256(repr(pairs).encode()).hexdigest()}
    assert manifest["failures"] == [] and len(manifest["code"]) == 64 and manifest["made"].endswith("+00:00")
    assert json.loads(json.dumps(manifest)) == manifest
    assert digest(photographs[0]) == pairs[0][1]


def test_time_of_shared_maps_counts_once(tmp_path, photographs, monkeypatch) -> None:
    tried = experiment(tmp_path, profile(ranges=2))
    tried.complete()
    maps = [shard for shard in tried.shards if shard.needs is None]
    # Photographs with maps of their own: 5 + 3 + 5 + 5, and 2 of each range that is not the profile's.
    assert sum(len(shard.photographs) for shard in maps) == 5 + 3 + 5 + 5 + 2 * 2
    seconds = [tried.run.load(shard)["seconds"].sum() for shard in tried.shards]
    assert tried.manifest["seconds"] == round(sum(seconds)) and len(set(tried.shards)) == len(seconds)


def test_what_is_published_comes_back(tmp_path, photographs) -> None:
    Image.new("RGB", (5, 5)).save(photographs[0].path)
    photographs[1].path.unlink()
    tried = experiment(tmp_path, only=["gradient"])
    tried.complete()
    publish(tried.table, tried.manifest, tmp_path / "new" / "results")
    table, manifest = load_results(tmp_path / "new" / "results", "localization")
    assert manifest["failures"] == tried.manifest["failures"] and len(manifest["failures"]) == 1
    pd.testing.assert_frame_equal(table.drop(columns="hits"), tried.table.drop(columns="hits"))
    for ours, theirs in zip(tried.table.hits, table.hits, strict=True):
        assert (ours is None and theirs is None) or np.array_equal(ours, theirs)
    with pytest.raises(InputError, match="no results of pointing in"):
        load_results(tmp_path / "new" / "results", "pointing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="results cannot be written into"):
        publish(table, manifest, tmp_path / "file")


def test_limit_and_only(tmp_path, photographs) -> None:
    tried = experiment(tmp_path, limit=2, only=["perceptual"])
    assert [(about["method"], shard.photographs) for about, shard in tried.pieces] == [
        ("perceptual", tuple(photographs[:2]))
    ]
    tried.complete()
    assert len(tried.table) == 4 and experiment(tmp_path, limit=2, only=["perceptual"]).unfinished == []


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"only": ["rize"]}, "no method 'rize'; nearest: rise"),
        ({}, {"only": ["rise"]}, "mine has no row of rise"),
        ({"localization": {"methods": ["gradcam"]}}, {}, "no method 'gradcam'; nearest: grad_cam"),
        ({"localization": {"subsets": {"rize": 3}}}, {}, "no method 'rize'"),
        ({"methods": {"rize": {"count": 3}}}, {}, "no method 'rize'"),
        ({"methods": {"rise": {"counts": 3}}}, {}, "rise has no setting 'counts'; it has count"),
        ({"localization": {"methods": []}}, {}, "mine has no row of any method"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, photographs, change, arguments, message) -> None:
    settings = Profile(**{"name": "mine", "description": "", "localization": {"methods": ["gradient"]}} | change)
    with pytest.raises(InputError, match=message):
        experiment(tmp_path, settings, **arguments).pieces  # noqa: B018


def test_photographs_without_boxes_are_one_sentence(tmp_path, monkeypatch) -> None:
    plain = [Photograph("plain", tmp_path / "plain.png")]
    monkeypatch.setattr(Profile, "load_photographs", lambda self: plain)
    with pytest.raises(InputError, match="plain has no boxes"):
        experiment(tmp_path)
