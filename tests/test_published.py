"""The numbers in results/ are whole and say what made them, and the profile's settings are those that they choose."""

from pathlib import Path

import pytest

from perceptual_lib.engine import Worker
from perceptual_lib.experiments import drawn, layer_ranges, published
from perceptual_lib.profiles import load_profile
from perceptual_lib.tables import trials

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run() -> tuple:
    return published(ROOT / "results" / "imagenet-300", "localization")


@pytest.fixture(scope="module")
def profile():
    return load_profile("imagenet-300")


def test_every_photograph_of_every_row_is_there(run, profile, embedded) -> None:
    table, _ = run
    names = (profile.folder / profile.photographs.names).read_text().split()
    section = profile.localization
    lines = table[table.role == "table"]
    assert set(lines.method) == set(section.methods)
    for method, rows in lines.groupby("method"):
        assert set(rows.photograph) == set(drawn(names, section.subsets.get(method)))
        assert len(rows) == rows.photograph.nunique() * len(section.sigmas)
    tried = table[table.role != "table"]
    assert set(tried.photograph) == set(names[: section.ranges])
    assert tried[tried.role == "range"].settings.nunique() == len(layer_ranges(embedded.activations, "stage"))


def test_hits_and_failures(run) -> None:
    table, manifest = run
    failed = table.failure != ""
    assert table.hits[failed].isna().all()
    assert (table.hits[~failed].map(len) == 250).all()
    assert len(manifest["failures"]) == len(table[failed].drop_duplicates(["method", "settings", "photograph"]))


def test_the_manifest_is_of_this_profile_and_these_weights(run, profile) -> None:
    _, manifest = run
    assert manifest["profile"] == profile.model_dump(mode="json")
    assert manifest["photographs"]["n"] == 300
    identity = Worker({"model": "efficientnet_lite0", "device": "cpu"}).identity()
    assert manifest["network"] == identity


def test_the_profiles_layers_are_those_of_the_least_error(run, profile) -> None:
    tried = trials(run[0], "best")
    best = tried[tried.method == "perceptual"].sort_values("error", kind="stable").iloc[0]
    used = profile.settings | profile.localization.settings.get("perceptual", {})
    assert (f"{best['first']}-{best['last']}", best.layer_weight) == (used["layers"], used["layer_weight"])
