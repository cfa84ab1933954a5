"""The pointing game as an experiment: its table holds what the protocol says when it is called by hand."""

import json

import numpy as np
import pytest
import torch
from layouts import write_voc
from PIL import Image
from stand_ins import Regions, finished, small_profile
from test_voc import OBJECTS
from torch import nn

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.pointing.experiment import Pointing
from perceptual_lib.evaluation.pointing.protocol import distances, maxima
from perceptual_lib.evaluation.pointing.table import pointing_table
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.publishing import Results
from perceptual_lib.networks.vgg16_voc import VOC_CLASSES
from perceptual_lib.runs.executors import Local


def pointing(**changes) -> Profile:
    section = {"methods": ["center", "gradient", "perceptual"], "scales": [1.0, 1.5], "sigmas": [0.0, 6.0]}
    return small_profile(pointing=section | {"selection": 1} | changes)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_distances_are_the_protocols(tmp_path, of_profiles, scale) -> None:
    experiment = finished(Pointing, tmp_path, pointing(), Regions())
    table = experiment.table
    assert len(experiment.pictures) == 2 and len(table) == 3 * 2 * 2 * 4 * 2
    for scene in experiment.pictures:
        maps = torch.from_numpy(experiment.maps("perceptual", scale=scale)[scene.name])
        points = maxima(maps, scene.size[::-1], [0.0, 6.0])
        assert maps.shape == (4, 224 * scale, 224 * scale)
        lines = table[(table.method == "perceptual") & (table.scale == scale) & (table.scene == scene.name)]
        for question, point in zip(scene.questions, points, strict=True):
            own = lines[lines.target == question.target]
            assert own.sigma.tolist() == [0.0, 6.0] and (own.hard == question.hard).all()
            assert np.allclose(own.distance, distances(point, question.boxes), atol=1e-3)


def test_layers_that_the_network_has_not_are_refused_before_anything_is_computed(tmp_path, of_profiles) -> None:
    settings = pointing(layers={1.5: "99"})
    with pytest.raises(InputError, match="99 is out of range"):
        Pointing(settings, tmp_path, Local({"model": Regions()}))


def test_some_methods_are_smoothed_in_place_of_blurred(tmp_path, of_profiles) -> None:
    experiment = finished(Pointing, tmp_path, pointing(smooth={"gradient": 0.1}, scales=[1.0]), Regions())
    table = experiment.table
    assert table.groupby("method").sigma.unique().map(list).to_dict() == {
        "center": [0.0, 6.0],
        "gradient": [0.0],
        "perceptual": [0.0, 6.0],
    }
    scene = experiment.pictures[1]
    maps = torch.from_numpy(experiment.maps("gradient", scale=1.0)[scene.name])
    points = maxima(maps, scene.size[::-1], smooth=0.1)[:, 0]
    assert (points != maxima(maps, scene.size[::-1])[:, 0]).any()
    expected = [distances(point, each.boxes) for point, each in zip(points, scene.questions, strict=True)]
    found = table[(table.method == "gradient") & (table.scene == scene.name)].distance
    assert np.allclose(found, expected, atol=1e-3)
    (scores,) = experiment.overview().values()
    assert scores.sigma["gradient"] == 0 and str(scores["all"]["gradient"]) == str(scores.unblurred["gradient"])
    assert "pinned_sigma" not in scores
    pinned = Pointing(pointing(pinned={1.0: 6.0}, scales=[1.0, 1.5]), tmp_path, Local({"model": Regions()}))
    pinned.complete()
    assert ["pinned_all" in scores for scores in pinned.overview().values()] == [True, False]


def test_layers_and_ranges_by_scale(tmp_path, of_profiles) -> None:
    settings = pointing(layers={1.5: "0"}, methods=["perceptual"], ranges=1, sigmas=[0.0])
    table = finished(Pointing, tmp_path, settings, Regions()).table
    own = table[table.role == "table"].drop_duplicates("scale").set_index("scale")
    assert [json.loads(own.settings[scale])["layers"] for scale in (1.0, 1.5)] == ["0-0", "0"]
    ranges = table[table.role == "range"]
    first = table.scene.iloc[0]
    assert set(ranges.scene) == set(table.scene[table.selection]) == {first} and set(ranges.scale) == {1.0, 1.5}
    few = Pointing(pointing(ranges=1, range_scales=[1.0]), tmp_path, Local({"model": Regions()}))
    assert {about["scale"] for about, _ in few.pieces if about["role"] == "range"} == {1.0}
    smaller = Pointing(pointing(without={1.5: ["center"]}), tmp_path, Local({"model": Regions()}))
    assert {about["scale"] for about, _ in smaller.pieces if about["method"] == "center"} == {1.0}
    assert {about["scale"] for about, _ in smaller.pieces if about["method"] != "center"} == {1.0, 1.5}
    with pytest.raises(InputError, match="no method 'centre'"):
        Pointing(pointing(without={1.5: ["centre"]}), tmp_path, Local({"model": Regions()}))


def test_the_middle_of_a_mosaic_by_hand(tmp_path, of_profiles) -> None:
    """Its centre touches all four cells; boxes begin at 5 of 40 rows and 5 of 50 columns."""
    experiment = finished(Pointing, tmp_path, pointing(methods=["center"], scales=[1.0], sigmas=[0.0]), Regions())
    scene = experiment.pictures[0]
    points = maxima(torch.from_numpy(experiment.maps("center", scale=1.0)[scene.name]), (448, 448))[:, 0]
    assert np.allclose(points, 223.5, atol=3)
    bottom_right = experiment.table[experiment.table.target == scene.questions[3].target].distance.iloc[0]
    left, top, _, _ = scene.questions[3].boxes[0]
    assert bottom_right == pytest.approx(np.hypot(left - points[3][0], top - points[3][1]), abs=1e-3)


def test_voc_in_place_of_mosaics(tmp_path, of_profiles, monkeypatch) -> None:
    noise = Image.effect_noise((20, 10), 80).convert("RGB")
    write_voc(tmp_path / "voc", {name: (noise, objects) for name, objects in OBJECTS.items()})
    settings = pointing(source="$VOC_ROOT", methods=["gradient", "perceptual"], scales=[1.0])
    monkeypatch.delenv("VOC_ROOT", raising=False)
    with pytest.raises(InputError, match="set that environment variable to the folder of VOC 2007's test set"):
        finished(Pointing, tmp_path, settings, Regions())
    monkeypatch.setenv("VOC_ROOT", str(tmp_path / "voc"))
    network = Regions()
    network.classifier = nn.Conv2d(6, len(VOC_CLASSES), 1)
    experiment = finished(Pointing, tmp_path, settings, network)
    table = experiment.table
    # In 000004 every object is flagged: no question. 000001 asks for two classes.
    asked = table.drop_duplicates(["scene", "target"])
    assert [(line.scene, VOC_CLASSES[line.target]) for line in asked.itertuples()] == [
        ("000001", "dog"),
        ("000001", "person"),
        ("000008", "cat"),
        ("000010", "cat"),
    ]
    assert (table.failure == "").all() and len(table) == 2 * 4 * 2
    person = table[(table.scene == "000001") & (table.target == VOC_CLASSES.index("person"))]
    assert (person.distance == 0).all()  # who fills the picture
    assert experiment.maps("perceptual")["000001"].shape == (2, 224, 448)
    # Boxes 1 and 2 are of 000001, 3 and 4 of 000004, of which nothing is asked; 5 of 000008; 6 and 7 of 000010.
    counted = {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 3, 7: 3}
    names = [scene.name for scene in experiment.pictures]
    for count, pictures in counted.items():
        assert [scene.name for scene in experiment.first(count)] == names[:pictures]
    assert set(table.scene[table.selection]) == {"000001"}  # 1
    # A class that nothing is asked of counts 0 in the mean over VOC's twenty; dog, person and cat occur.
    (of_twenty,), of_three = experiment.overview().values(), pointing_table(table, 1.0)
    for method in ("gradient", "perceptual"):
        assert of_twenty["all"][method].value * 20 == pytest.approx(of_three["all"][method].value * 3)
    assert "on 3 scenes" in Results("mine", experiment.table, experiment.manifest).describe()


def test_a_mosaic_takes_four(tmp_path, of_profiles, monkeypatch) -> None:
    monkeypatch.setattr(Profile, "load_photographs", lambda self: of_profiles[:3])
    with pytest.raises(InputError, match="a mosaic needs four photographs; profile mine has 3"):
        finished(Pointing, tmp_path, pointing(), Regions())
