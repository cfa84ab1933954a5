"""Insertion and deletion, sanity checks, the change itself: tables hold what protocols say when called by hand."""

import json

import numpy as np
import pytest
import torch
from stand_ins import Layered, Regions, Small, finished, small_profile

from perceptual_lib import explain, load_classifier, perceptual_ball
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.change import score as change
from perceptual_lib.evaluation.games import (
    Change,
    InsertionDeletion,
    Localization,
    Pointing,
    Randomization,
    experiments_of,
)
from perceptual_lib.evaluation.insertion_deletion.protocol import impulse_blur, insertion_deletion
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.randomization import score as randomization
from perceptual_lib.evaluation.randomization.protocol import cascade, rank_correlation, structural_similarity, untrained
from perceptual_lib.runs.executors import Local

STEP = 12544  # a quarter of 224 x 224


def games(**changes) -> Profile:
    section = {
        "pictures": 5,
        "methods": ["gradient", "no_perceptual", "perceptual"],
        "sigmas": {"perceptual": [0.0, 5.0]},
        "selection": 2,
        "step": STEP,
    }
    return small_profile(insertion_deletion=section | changes)


def sanity(**changes) -> Profile:
    section = {"pictures": 4, "methods": ["gradient", "perceptual"], "seeds": 2, "selection": 1}
    return small_profile(randomization=section | changes)


def changes_of(**changes) -> Profile:
    return small_profile(change={"pictures": 4, "selection": 1} | changes)


@pytest.fixture
def of_layered(monkeypatch) -> None:
    """Untrained networks are those of `Layered`, which no name is known for."""
    monkeypatch.setattr(randomization, "untrained", lambda name, seed: untrained(Layered(), seed))


# --- insertion and deletion ----------------------------------------------------------------------------------


def test_the_curves_are_the_protocols(tmp_path, of_profiles) -> None:
    experiment = finished(InsertionDeletion, tmp_path, games())
    classifier = load_classifier(Layered())
    images = classifier.preprocess(of_profiles[:5])
    targets = classifier(images).argmax(1)
    maps = torch.from_numpy(np.stack(list(experiment.maps("perceptual").values())))
    blurred = torch.stack([impulse_blur(maps, sigma) for sigma in (0.0, 5.0)], 1)
    expected = insertion_deletion(classifier, images, blurred, targets, step=STEP).numpy()
    own = experiment.table[experiment.table.method == "perceptual"]
    assert own.photograph.tolist() == [name for name in "01234" for _ in range(2)]
    assert own.sigma.tolist() == [0.0, 5.0] * 5 and (own.failure == "").all()
    for game, name in enumerate(("insertion", "deletion")):
        curves = np.stack(own[name].to_list()).reshape(5, 2, -1)
        assert curves.shape[2] == 5 and np.allclose(curves, expected[:, :, game], atol=1e-4)


def test_roles_of_the_games(tmp_path, of_profiles) -> None:
    table = finished(InsertionDeletion, tmp_path, games(ranges=2, range_sigmas=[0.0], sweep=[2.0, 9.0], swept=3)).table
    assert table.columns.tolist() == list(InsertionDeletion.columns)
    counts = table.groupby(["role", "method"]).size().to_dict()
    assert counts == {
        ("table", "gradient"): 5,
        ("table", "no_perceptual"): 5,
        ("table", "perceptual"): 2 * 5,
        ("range", "perceptual"): 3 * 2,
        ("sweep", "perceptual"): 2 * 3,
    }
    ranges = table[table.role == "range"]
    assert [json.loads(each)["layers"] for each in ranges.settings.unique()] == ["0-0", "0-1", "1-1"]
    assert set(table.photograph[table.selection]) == {"0", "1"}
    assert set(table.photograph[table.role == "sweep"]) == {"0", "1", "2"}


def test_experiments_share_maps(tmp_path, of_profiles) -> None:
    methods = ["gradient", "perceptual"]
    both = small_profile(
        localization={"pictures": 5, "methods": methods, "sigmas": [0.0], "selection": 2},
        insertion_deletion={"pictures": 5, "methods": methods, "step": STEP},
    )
    with experiments_of(both, lambda section: Local({"model": Layered()}), tmp_path / "store") as experiments:
        states = []
        for experiment in experiments:
            experiment.run.report = lambda shard, state: states.append((shard.kind, state))
            experiment.complete()
    finished = [kind for kind, state in states if state == "finished"]
    assert {kind: finished.count(kind) for kind in finished} == {
        "perceptual_lib.evaluation.explanation": 2,
        "perceptual_lib.evaluation.perturbation": 2,
        "perceptual_lib.evaluation.localization.score": 4,
        "perceptual_lib.evaluation.insertion_deletion.score": 4,
    }


# --- sanity checks -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("of_layered")
def test_the_likeness_is_the_protocols(tmp_path, of_profiles) -> None:
    experiment = finished(Randomization, tmp_path, sanity())
    classifier = load_classifier(Layered())
    images = classifier.preprocess(of_profiles[:4])
    targets = classifier(images).argmax(1)
    table = experiment.table
    layers = ["", *experiment.layers]
    assert layers == ["", "6", "2", "0"] and len(table) == 2 * 2 * 4 * len(layers)
    for seed in (0, 1):
        networks = [classifier, *(copy for _, copy in cascade(classifier, fresh=untrained(Layered(), seed)))]
        maps = [explain(network, images, targets, method="gradient") for network in networks]
        own = table[(table.method == "gradient") & (table.seed == seed)]
        for stage, (layer, later) in enumerate(zip(layers, maps, strict=True)):
            lines = own[own.stage == stage]
            assert lines.photograph.tolist() == list("0123") and (lines.layer == layer).all()
            assert np.allclose(lines.correlation, rank_correlation(maps[0], later), atol=1e-4)
            assert np.allclose(lines.ssim, structural_similarity(maps[0], later), atol=1e-4)
            for line, saliency, picture in zip(lines.itertuples(), later**2, experiment.pictures, strict=True):
                mask = torch.from_numpy(picture.box_mask(224, 224))
                assert line.inside == pytest.approx(float(saliency[mask].sum() / saliency.sum()), abs=1e-3)
                assert line.area == pytest.approx(float(mask.float().mean()), abs=1e-6)
        assert experiment.maps("gradient", seed=seed)["0"].shape == (len(layers), 224, 224)
    last = table[(table.stage == 3) & (table.method == "gradient")].pivot(
        index="photograph", columns="seed", values="correlation"
    )
    assert not np.allclose(last[0], last[1]) and set(table.photograph[table.selection]) == {"0"}
    assert np.allclose(table[table.stage == 0][["correlation", "ssim"]], 1)


# --- where the change goes -----------------------------------------------------------------------------------


def test_measures_of_a_perturbation_by_hand() -> None:
    """Of 4 x 4 pixels two change by 3, one of them inside the box of two rows; and none at all."""
    maps = np.zeros((2, 4, 4), dtype=np.float16)
    maps[0, 0, 0] = maps[0, 3, 3] = 1
    needed = {"maps": maps, "maps_scales": np.array([3.0, 0.0]), "margin_before": np.ones(2), "margin": np.zeros(2)}
    found = change.compute(None, None, needed=needed, unit=10.0, boxes=[[(0, 0, 3, 1)], [(0, 0, 0, 0)]])
    assert found["inside"].tolist() == [0.5, 0.0] and found["area"].tolist() == [0.5, 1 / 16]
    assert found["size"].tolist() == pytest.approx([10 * np.sqrt(2 * 9 / 16), 0])
    assert found["spread"].tolist() == pytest.approx([2 / 16, 0])


def test_changes_are_those_of_the_perturbation(tmp_path, of_profiles) -> None:
    experiment = finished(Change, tmp_path, changes_of(ranges=2))
    table = experiment.table
    assert table.groupby(["role", "method"]).size().to_dict() == {
        ("table", "no_perceptual"): 4,
        ("table", "perceptual"): 4,
        ("range", "perceptual"): 3 * 2,
    }
    classifier = load_classifier(Layered())
    own = table[(table.role == "table") & (table.method == "perceptual")]
    result = perceptual_ball(classifier, classifier.preprocess(of_profiles[:4]), **experiment.profile.settings)
    energy = result.delta.square().mean(1)
    masks = np.stack([photograph.box_mask(224, 224) for photograph in of_profiles[:4]])
    inside = (energy * torch.from_numpy(masks)).sum((1, 2)) / energy.sum((1, 2))
    size = 255 * classifier.std.mean() * energy.mean((1, 2)).sqrt()
    assert np.allclose(own.inside, inside, rtol=1e-2) and np.allclose(own["size"], size, rtol=1e-2)
    assert np.allclose(own.margin, result.margin, atol=1e-4) and np.allclose(own.area, masks.mean((1, 2)))
    assert np.allclose(own.margin_before, result.margin_before, atol=1e-4)


# --- all of them ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("of_layered")
@pytest.mark.parametrize(
    ("kind", "settings", "network", "numbers"),
    [
        (InsertionDeletion, games(), Layered, ["insertion", "deletion"]),
        (
            Pointing,
            small_profile(pointing={"methods": ["center", "perceptual"], "sigmas": [6.0]}),
            Regions,
            ["distance"],
        ),
        (Randomization, sanity(), Layered, ["correlation", "ssim", "inside", "area"]),
        (Change, changes_of(), Layered, ["margin", "inside", "area", "size", "spread"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_picture_that_cannot_be_read(tmp_path, of_profiles, kind, settings, network, numbers) -> None:
    of_profiles[1].path.write_bytes(b"no picture")
    experiment = finished(kind, tmp_path, settings, network())
    failed = experiment.table.failure != ""
    expected = "1"
    if kind is Pointing:
        expected = next(scene.name for scene in experiment.pictures if of_profiles[1] in scene.cells)
    assert set(experiment.table[failed][kind.unit]) == {expected} and failed.any() and not failed.all()
    assert experiment.table[failed].failure.str.contains("not a picture").all()
    for name in numbers:
        assert (experiment.table[name].isna() == failed).all()
    manifest = experiment.manifest
    assert {each[kind.unit] for each in manifest["failures"]} == {expected} and manifest["experiment"] == kind.name
    assert expected not in experiment.maps(settings.model_dump()[kind.name]["methods"][-1])
    assert json.loads(json.dumps(manifest)) == manifest and experiment.unfinished == []


def everything() -> Profile:
    return small_profile(
        localization={"methods": ["gradient", "perceptual"], "sigmas": [0.0]},
        pointing={"methods": ["center"], "classifier": {"model": "another"}},
        change={},
    )


class Noted(Local):
    """Says when it is closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_experiments_on_one_network_share_its_executor(tmp_path, of_profiles) -> None:
    executors = {}

    def make_executor(classifier) -> Noted:
        assert classifier["model"] not in executors
        return executors.setdefault(classifier["model"], Noted({"model": Small()}))

    with experiments_of(everything(), make_executor, tmp_path, limit=1) as experiments:
        assert [experiment.name for experiment in experiments] == ["localization", "pointing", "change"]
        assert list(executors) == ["efficientnet_lite0", "another"]
        assert experiments[0].run.executor is experiments[2].run.executor is executors["efficientnet_lite0"]
        assert {len(experiment.pictures) for experiment in experiments} == {1}
        assert not any(executor.closed for executor in executors.values())
    assert all(executor.closed for executor in executors.values())


def test_executors_end_also_with_an_error(tmp_path, of_profiles) -> None:
    executors = []

    def make_executor(section) -> Noted:
        executors.append(Noted({"model": Small()}))
        return executors[-1]

    with (
        pytest.raises(InputError, match="mine has no insertion_deletion: add that section"),
        experiments_of(everything(), make_executor, tmp_path, names=["change", "insertion_deletion"]),
    ):
        raise AssertionError
    assert [executor.closed for executor in executors] == [True]


@pytest.mark.parametrize(
    ("only", "names"),
    [(["center"], ["pointing"]), (["perceptual"], ["localization", "change"]), (["no_perceptual"], ["change"])],
)
def test_only_names_the_experiments_too(tmp_path, of_profiles, only, names) -> None:
    with experiments_of(everything(), lambda _: Local({"model": Small()}), tmp_path, only=only) as experiments:
        assert [experiment.name for experiment in experiments] == names
        methods = {about["method"] for experiment in experiments for about, _ in experiment.pieces}
        assert methods == set(only)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (everything(), {"names": ["pointing", "painting"]}, "no experiment 'painting'; there are localization, insert"),
        (everything(), {"only": ["rise"]}, "mine has no experiment with rise"),
        (small_profile(), {}, "mine has no experiment with any method"),
    ],
)
def test_nothing_to_compute_is_one_sentence(tmp_path, of_profiles, settings, arguments, message) -> None:
    def make_executor(section) -> Local:
        raise AssertionError("nothing is loaded for nothing")

    with (
        pytest.raises(InputError, match=message),
        experiments_of(settings, make_executor, tmp_path, **arguments),
    ):
        raise AssertionError


def test_settings_of_one_experiment(tmp_path, of_profiles) -> None:
    """Only where they are said: Table 1 and Table 2 of the paper hold other layers."""
    sections = {"localization": {"sigmas": [0.0]}, "change": {"settings": {"perceptual": {"layers": "1-1"}}}}
    both = small_profile(**{name: {"methods": ["perceptual"]} | section for name, section in sections.items()})
    for kind, layers in ((Localization, "0-0"), (Change, "1-1")):
        experiment = kind(both, tmp_path, Local({"model": Layered()}))
        assert [json.loads(about["settings"])["layers"] for about, _ in experiment.pieces][0] == layers
