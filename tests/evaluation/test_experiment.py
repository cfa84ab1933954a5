"""What all experiments do: failures, the manifest, limits, one sentence for what does not fit."""

import hashlib
import json
import tracemalloc

import numpy as np
import pytest
from stand_ins import Layered, Regions, finished, small_profile

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.change.experiment import Change
from perceptual_lib.evaluation.experiments import find_game
from perceptual_lib.evaluation.games import GAMES
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.executors import Local
from perceptual_lib.runs.shard import versions


def localization(**changes) -> Profile:
    section = {"methods": ["gradient", "perceptual"], "sigmas": [0.0], "selection": 2}
    return small_profile(localization=section | changes)


@pytest.mark.usefixtures("of_layered")
def test_the_maps_of_a_few_pictures_are_read_alone(tmp_path, of_profiles, monkeypatch) -> None:
    experiment = finished(Localization, tmp_path, localization())
    every, read = experiment.maps("perceptual"), []
    load = experiment.run.load
    monkeypatch.setattr(experiment.run, "load", lambda shard: read.append(shard) or load(shard))
    name = experiment.pictures[-1].name
    one = experiment.maps("perceptual", [name])
    assert list(one) == [name] and np.array_equal(one[name], every[name]) and len(every) > 1
    assert [name in [each.name for each in shard.photographs] for shard in read] == [True]
    assert experiment.maps("perceptual", ["nobody"]) == {}


@pytest.mark.usefixtures("of_layered")
@pytest.mark.parametrize(
    ("name", "section", "numbers"),
    [
        ("localization", {"methods": ["gradient", "perceptual"], "sigmas": [0.0]}, ["hits"]),
        ("insertion_deletion", {"methods": ["perceptual"], "step": 12544}, ["insertion", "deletion"]),
        ("pointing", {"methods": ["center", "perceptual"], "sigmas": [6.0]}, ["distance"]),
        ("randomization", {"methods": ["gradient"], "seeds": 1}, ["correlation", "ssim", "inside", "area"]),
        ("change", {"methods": ["perceptual"]}, ["margin", "inside", "area", "size", "spread"]),
    ],
    ids=GAMES,
)
def test_pictures_that_cannot_be_read(tmp_path, of_profiles, name, section, numbers) -> None:
    """They stand in the table and the manifest. The first three are a shard, and a mosaic is of four of the eight."""
    game, settings, broken = find_game(name), small_profile(**{name: section}), of_profiles[:3]
    network, expected = Layered(), ["0", "1", "2"]
    if name == "pointing":
        network, broken = Regions(), of_profiles[:1]
    for photograph in broken:
        photograph.path.write_bytes(b"no picture")
    experiment = finished(game, tmp_path, settings, network, limit=4)
    if name == "pointing":
        expected = [scene.name for scene in experiment.pictures if broken[0] in scene.cells]
    failed = experiment.table.failure != ""
    assert sorted(set(experiment.table[failed][game.unit])) == expected and failed.any() and not failed.all()
    assert experiment.table[failed].failure.str.contains("not a picture").all()
    for column in numbers:
        assert (experiment.table[column].isna() == failed).all()
    manifest = experiment.manifest
    failures = {(each["method"], each[game.unit]) for each in manifest["failures"]}
    assert failures == {(method, picture) for method in section["methods"] for picture in expected}
    assert all("not a picture" in each["failure"] for each in manifest["failures"])
    assert set(expected).isdisjoint(experiment.maps(section["methods"][-1])) and experiment.unfinished == []
    assert json.loads(json.dumps(manifest)) == manifest and manifest["experiment"] == name
    assert experiment.overview()


@pytest.mark.parametrize("name", GAMES)
def test_every_game_is_played_in_reduced_precision(tmp_path, of_profiles, of_layered, name) -> None:
    """And says so; a network's outputs in bfloat16, which NumPy does not know, are no failure."""
    section = {} if name == "change" else {"methods": ["gradient", "perceptual"]}
    executor = Local({"model": Regions() if name == "pointing" else Layered(), "precision": "bf16"})
    experiment = find_game(name)(small_profile(**{name: section}), tmp_path, executor, limit=2)
    assert experiment.table.empty  # which is looked at anew when there is more
    experiment.complete()
    assert experiment.manifest["failures"] == [] and experiment.manifest["network"]["precision"] == "bf16"
    assert set(experiment.table.failure) == {""} and len(experiment.table)


def test_a_large_table_takes_little_memory(tmp_path, of_profiles) -> None:
    """A dict for each line took 670 bytes, and `paper` has twenty million lines."""
    settings = small_profile(pointing={"methods": ["center"], "sigmas": "0-100"})
    experiment = find_game("pointing")(settings, tmp_path, Local({"model": Regions()}))
    shard = {"failure": np.array([""]), "seconds": np.ones(1), "distance": np.ones((1, 4 * 101), dtype=np.float32)}
    experiment.run.load = lambda _: shard
    lines = len(experiment.table)  # and what is loaded for the first is there
    del experiment.table
    experiment.pieces *= 25
    tracemalloc.start()
    try:
        assert len(experiment.table) == 25 * lines == 40_400
        assert tracemalloc.get_traced_memory()[1] < 300 * 25 * lines
    finally:
        tracemalloc.stop()


def test_the_manifest_says_what_made_the_table(tmp_path, of_profiles) -> None:
    settings = localization()
    tried = finished(Localization, tmp_path, small_profile(localization=settings.localization, change={}))
    manifest = tried.manifest
    assert manifest["profile"] == settings.model_dump(mode="json", exclude=set(GAMES) - {"localization"})
    assert manifest["network"] == tried.run.executor.worker.identity() and len(manifest["network"]["weights"]) == 64
    assert manifest["network"]["device"] == "cpu" and manifest["versions"] == versions()
    assert "cores" in manifest["machine"] and manifest["seeds"]["subsets"] == 0
    pairs = [(photograph.name, hashlib.sha256(photograph.path.read_bytes()).hexdigest()) for photograph in of_profiles]
    assert manifest["photographs"] == {"sha256": hashlib.sha256(repr(pairs).encode()).hexdigest()}
    assert manifest["failures"] == [] and len(manifest["code"]) == 64 and manifest["made"].endswith("+00:00")


def test_limit_and_only(tmp_path, of_profiles) -> None:
    tried = finished(Localization, tmp_path, localization(), limit=2, only=["perceptual"])
    assert [(about["method"], shard.photographs) for about, shard in tried.pieces] == [
        ("perceptual", tuple(of_profiles[:2]))
    ]
    assert len(tried.table) == 2 and tried.seconds("perceptual") > 0
    again = Localization(localization(), tmp_path / "store", tried.run.executor, limit=2, only=["perceptual"])
    assert again.unfinished == []


def test_settings_of_one_game(tmp_path, of_profiles) -> None:
    """Only where they are said: Table 1 and Table 2 of the paper hold other layers. Maps are kept without a blur."""
    both = small_profile(localization={}, change={"settings": {"perceptual": {"layers": "1-1", "sigma": 9.0}}})
    table_1, change = (game(both, tmp_path, Local({"model": Layered()})) for game in (Localization, Change))
    held = table_1.settings("perceptual"), change.settings("perceptual")
    assert held == (both.settings, both.settings | {"layers": "1-1"})
    assert change.settings("no_perceptual") == both.settings | {"layers": [], "layer_weight": 0.0}
    assert change.settings("gradient") == {}


@pytest.mark.parametrize(
    ("said", "arguments", "message"),
    [
        ({}, {"only": ["rize"]}, r"no method 'rize' \(nearest: rise"),
        ({}, {"only": ["rise"]}, r"mine has no row of rise on \d photographs"),
        ({"localization": {"methods": ["gradcam"]}}, {}, r"no method 'gradcam' \(nearest: grad_cam"),
        ({"localization": {"subsets": {"rize": 3}}}, {}, "no method 'rize'"),
        ({"localization": {"settings": {"rize": {}}}}, {}, "no method 'rize'"),
        ({"localization": {"settings": {"rise": {"samplse": 3}}}}, {}, "rise has no setting 'samplse'; it has samples"),
        ({"methods": {"rize": {"count": 3}}}, {}, "no method 'rize'"),
        ({"methods": {"rise": {"samples": "many"}}}, {}, "samples of rise is 'many', and must be a whole number"),
        ({"methods": {"rise": {"samples": [3.0]}}}, {}, r"samples of rise is \[3.0\], and must be a whole number"),
        ({"methods": {"rise": {"samples": True}}}, {}, "samples of rise is True, and must be a whole number"),
        ({"methods": {"rise": {"scores": 3}}}, {}, "scores of rise is 3, and must be a word"),
        (
            {"methods": {"rise": {"samples": 0}}},
            {},
            "rise cannot take the settings .*: samples and cells are at least 1",
        ),
        ({"methods": {"rise": {"share": 7.0}}}, {}, "rise cannot take the settings .*: share is a probability"),
        ({"methods": {"smoothgrad": {"noise": -7.0}}}, {}, "smoothgrad cannot take .* noise at least 0"),
        (
            {"methods": {"smoothgrad": {"reduction": "nosuch"}}},
            {},
            "smoothgrad cannot take .*: reduction is max or grey",
        ),
        (
            {"methods": {"guided_backprop": {"reduction": "a"}}},
            {},
            "guided_backprop cannot take .*: reduction is max or grey",
        ),
        (
            {"methods": {"guided_grad_cam": {"reduction": "a"}}},
            {},
            "guided_grad_cam cannot take .*: reduction is max or grey",
        ),
        (
            {"methods": {"integrated_gradients": {"steps": 0}}},
            {},
            "integrated_gradients cannot take .*: points are gauss",
        ),
        (
            {"methods": {"integrated_gradients": {"reduction": "a"}}},
            {},
            "integrated_gradients cannot take .*: reduction",
        ),
        (
            {"methods": {"extremal_perturbation": {"areas": [7.0]}}},
            {},
            "extremal_perturbation cannot take .*: areas are shares",
        ),
        (
            {"methods": {"extremal_perturbation": {"areas": 0.1}}},
            {},
            "areas of extremal_perturbation is 0.1, and must",
        ),
        ({"methods": {"rise": {"samplse": 3}}}, {}, "rise has no setting 'samplse'; it has samples"),
        (
            {"localization": {"settings": {"perceptual": {"reach": True}}}},
            {},
            "a profile cannot set reach of perceptual",
        ),
        ({"methods": {"perceptual_guided": {"tolerance_map": 0.1}}}, {}, "a profile cannot set tolerance_map"),
        (
            {"perturbation": {"layers": "0-999"}, "localization": {"methods": ["perceptual"]}},
            {},
            "is out of range: the network has 2 activations",
        ),
        (
            {"perturbation": {"layers": ["nosuch"]}, "localization": {"methods": ["perceptual"]}},
            {},
            "there is no layer 'nosuch'; the network has 2 activations",
        ),
        (
            {"methods": {"grad_cam": {"layer": "nosuch"}}, "localization": {"methods": ["grad_cam"]}},
            {},
            "there is no layer 'nosuch'; the network has 2 activations",
        ),
        ({"perturbation": {"layers": []}, "methods": {"perceptual": {"layer_weight": -1.0}}}, {}, "weights at least 0"),
        ({"localization": {"methods": ["perceptual"]}}, {}, "perceptual holds layers: say which"),
        ({"localization": {"grey": ["gradientt"]}}, {}, "no method 'gradientt'"),
        ({"localization": {"methods": []}}, {}, "mine has no row of any method"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, of_profiles, said, arguments, message) -> None:
    settings = Profile(**{"name": "mine", "description": "", "localization": {"methods": ["gradient"]}} | said)
    with pytest.raises(InputError, match=message):
        Localization(settings, tmp_path, Local({"model": Layered()}), **arguments).pieces  # noqa: B018


def test_photographs_without_boxes_are_one_sentence(tmp_path, monkeypatch) -> None:
    plain = [Photograph("plain", tmp_path / "plain.png")]
    monkeypatch.setattr(Profile, "load_photographs", lambda self: plain)
    with pytest.raises(InputError, match="plain has no boxes"):
        Localization(localization(), tmp_path, Local({"model": Layered()}))
