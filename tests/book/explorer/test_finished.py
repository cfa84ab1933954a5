"""The layers explorer with the maps of a finished experiment."""

import base64

import nbformat
import numpy as np
import pytest
import torch
from players import METHODS
from stand_ins import Layered
from torch import nn

from perceptual_lib import explain, load_classifier, perceptual_ball
from perceptual_lib.book.explorer import Explorer, finished
from perceptual_lib.book.explorer.finished import tried_ranges
from perceptual_lib.book.pages import stage_page
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.localization.protocol import THRESHOLDS
from perceptual_lib.evaluation.localization.table import trials


def test_maps_of_an_experiment(of_experiment, localization) -> None:
    explorer, experiment = of_experiment, localization
    ranges = {"0-0", "0-1", "1-1"}
    assert {each["layers"] for each in explorer.about["ranges"]} == ranges and list(explorer.subjects) == ["0", "1"]
    layered = {f"map/{name}/{method}/{layers}" for name in "01" for method in METHODS[2:] for layers in ranges}
    plain = {f"map/{name}/{method}/" for name in "01" for method in METHODS[:2]}
    assert explorer.maps.keys() == layered | plain
    for name, saliency in experiment.maps("perceptual").items():
        if name in "01":
            assert np.array_equal(explorer.maps[f"map/{name}/perceptual/{explorer.layers}"], saliency)


def test_the_maps_of_ranges_are_of_a_few_photographs(localization, classifier, monkeypatch) -> None:
    read, maps = set(), localization.maps

    def reading(method, names, *array, role, **settings):
        read.update((role, name) for name in names)
        return maps(method, names, *array, role=role, **settings)

    monkeypatch.setattr(finished, "PHOTOGRAPHS", 1)
    monkeypatch.setattr(localization, "maps", reading)
    made = Explorer.of(localization, classifier, photographs=2)
    assert read == {("table", "0"), ("table", "1"), ("range", "0")}
    held = {name: {key for key in made.maps if key.startswith(f"map/{name}/perceptual/")} for name in "01"}
    assert [len(keys) for keys in held.values()] == [3, 1] and held["1"] == {f"map/1/perceptual/{made.layers}"}


CHOICES = {"layers": ["0-0", "0-1"], "layer_weight": [1.0, 100.0], "margin_target": [-1.0, -3.0]}


@pytest.fixture(scope="session")
def of_settings(localization, classifier) -> Explorer:
    return Explorer.tried(localization, classifier, localization.pictures[:2], CHOICES, layers="0-1")


def test_maps_of_every_combination_of_settings(of_settings, localization, classifier) -> None:
    explorer, pictures = of_settings, localization.pictures[:2]
    assert len(explorer.maps) == 16 and explorer.about["tried"]["layer_weight"] == ["1", "100"]
    settings = localization.settings("perceptual") | {"layers": "0-1", "layer_weight": 100.0, "margin_target": -3.0}
    expected = explain(classifier, classifier.preprocess(pictures), method="perceptual", sigma=0.0, **settings)[1]
    found = explorer.maps[f"map/{pictures[1].name}/perceptual 100 -3/0-1"]
    assert np.abs(found / found.max() - expected.numpy() / expected.numpy().max()).max() < 1e-3
    assert [method["name"] for method in explorer.static_traits()["about"]["methods"]] == ["perceptual"]


def test_the_cost_is_that_of_the_experiments_settings(of_experiment, of_settings, localization, embedded) -> None:
    steps = localization.settings("perceptual")["max_iter"]
    assert steps != embedded.settings["max_iter"]
    for explorer in (of_experiment, of_settings):
        notes = {each["name"]: each["note"] for each in explorer.about["methods"]}
        assert notes["perceptual"] == f"{steps + 3} forward, {steps + 1} backward"


def test_a_live_explorer_computes_further_settings(of_settings) -> None:
    name = next(iter(of_settings.subjects))
    near, far = (of_settings.compute(f"map/{name}/perceptual {weight} -2/0-1") for weight in ("0.01", "1000"))
    assert near.max() > far.max()


def test_errors_are_those_of_the_table(of_experiment, localization) -> None:
    explorer, experiment = of_experiment, localization
    lines = experiment.table[(experiment.table.role == "table") & (experiment.table.method == "gradient")]
    errors = explorer.about["errors"]["gradient"]
    hits = np.stack(lines.hits).reshape(5, 2, 250)  # photographs, sigmas, thresholds
    chosen = (1 - hits[:3].mean(0)).min(1).argmin()
    assert errors["note"] == "1 forward, 1 backward"
    assert errors["n"] == 5 and errors["value"][0] == pytest.approx((1 - hits[:, chosen, :20].mean(0)).min())


def test_the_triangle_has_the_errors_of_the_ranges(of_experiment, localization) -> None:
    table = localization.table
    expected = {
        name: trials(table, strategy).query("method == 'perceptual'").set_index(["role", "first", "last"]).error
        for name, strategy in {"error": "value", "best": "best"}.items()
    }
    ranges = of_experiment.about["ranges"]
    assert [each["layers"] for each in ranges] == ["0-0", "0-1", "1-1"] and of_experiment.layers == "0-0"
    for each in ranges:
        for name, errors in expected.items():
            assert each[name] == pytest.approx(errors[each["role"], each["first"], each["last"]], abs=1e-4)
        assert each["n"] == 2 and each["role"] == "range"


def test_the_profiles_own_range_need_not_be_in_the_triangle(complete, classifier) -> None:
    section = {"pictures": 3, "methods": ["perceptual"], "sigmas": [0.0], "ranges": 2, "granularity": "stage"}
    experiment = complete(Localization, localization=section)
    table = experiment.table
    of_own = table.role == "table"
    table.loc[of_own, "settings"] = table.settings[of_own].str.replace('"0-0"', '"0-2"')
    *ranges, own = tried_ranges(table)
    assert own["layers"] == "0-2" and own["role"] == "table" and own["n"] == 2
    assert {each["role"] for each in ranges} == {"range"}


def test_the_profiles_own_layers_need_not_be_a_range(complete, classifier) -> None:
    section = {"pictures": 3, "methods": ["perceptual"], "sigmas": [0.0], "ranges": 2, "granularity": "stage"}
    experiment = complete(Localization, localization=section, perturbation={"layers": [-2]})
    assert trials(experiment.table)["first"].isna().sum() == 1
    assert {each["role"] for each in tried_ranges(experiment.table)} == {"range"}


@pytest.mark.parametrize(("held", "shown"), [("[-1, 1]", "1-2"), ("[]", ""), ("[0, 2]", None), ('"features"', None)])
def test_layers_that_are_no_range_are_not_shown_as_one(complete, held, shown, monkeypatch) -> None:
    section = {"pictures": 2, "methods": ["gradient", "perceptual"], "sigmas": [0.0]}
    experiment = complete(Localization, localization=section)
    experiment.table["settings"] = experiment.table.settings.str.replace('"0-0"', held)
    read = dict.fromkeys("01", np.zeros((224, 224))), dict.fromkeys("01", 0)
    monkeypatch.setattr(experiment, "maps", lambda method, names, array="maps", **_: read[array == "becomes"])
    three = load_classifier(nn.Sequential(Layered(), nn.ReLU()))
    explorer = Explorer.of(experiment, three)
    layers = {key.split("/")[3] for key in explorer.maps if key.split("/")[2] == "perceptual"}
    assert layers == (set() if shown is None else {shown})
    methods = [method["name"] for method in explorer.static_traits()["about"]["methods"]]
    assert methods == ["gradient", "perceptual"][: 1 if shown is None else 2]


def test_it_says_what_the_network_sees_after_the_change(of_experiment, localization, classifier) -> None:
    name = next(iter(of_experiment.subjects))
    images = classifier.preprocess([next(each for each in localization.pictures if each.name == name)])
    settings = {**localization.settings("perceptual"), "layers": "0-1"}
    result = perceptual_ball(classifier, images, **settings)
    with torch.no_grad():
        expected = classifier(images + result.delta).argmax().item()
    assert of_experiment.about["becomes"][f"map/{name}/perceptual/0-1"] == classifier.class_name(expected)
    assert not any("gradient" in key for key in of_experiment.about["becomes"])


def test_without_ranges_there_is_no_triangle(complete, classifier) -> None:
    section = {"pictures": 2, "methods": ["perceptual"], "sigmas": [0.0]}
    assert Explorer.of(complete(Localization, localization=section), classifier).about["ranges"] == []


def test_it_begins_with_what_the_selection_chooses(of_experiment, localization) -> None:
    explorer, experiment = of_experiment, localization
    lines = experiment.table[(experiment.table.role == "table") & (experiment.table.method == "perceptual")]
    hits = np.stack(lines.hits).reshape(5, 2, 250)[:3].mean(0)  # sigmas, thresholds
    blur, threshold = [0.0, 4.0].index(explorer.sigma), THRESHOLDS.index((explorer.strategy, explorer.alpha))
    assert hits[blur, threshold] == hits.max()


def test_a_static_page_has_all_that_it_offers(of_experiment) -> None:
    explorer = of_experiment
    text = explorer.html()
    assert '"live": false' in text
    assert text.count('<script type="text/plain"') == len(set(map(repr, map(explorer.chunk, explorer.arrays))))
    about = explorer.static_traits()["about"]
    assert [method["name"] for method in about["methods"]] == METHODS


def test_arrays_move_out_of_a_page(tmp_path, of_experiment) -> None:
    explorer = of_experiment
    data, _ = explorer._repr_mimebundle_()
    outputs = [nbformat.v4.new_output("display_data", {"text/html": data["text/html"]})]
    page, staged = tmp_path / "page.ipynb", tmp_path / "staged.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explorer", outputs=outputs)]), page)
    stage_page(page, staged, tmp_path)
    text = nbformat.read(staged, 4).cells[0].outputs[0]["data"]["text/html"]
    assert "text/plain" not in text and len(text) < 110_000  # what draws them, and their names
    scripts = {path.stem: path.read_text() for path in (tmp_path / "explorer").glob("*.js")}
    assert scripts and all(f'"{name}"' in text for name in scripts)
    for key in explorer.arrays:
        head, data = explorer.chunk(key)
        assert any(base64.b64encode(data).decode() in script for script in scripts.values()), key
