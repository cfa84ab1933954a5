"""Profiles: the packaged ones, and one clear sentence for what is wrong in one's own."""

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import vgg19_bn

from perceptual_lib import InputError
from perceptual_lib.evaluation.profile import load_profile, profile_names
from perceptual_lib.methods import find_method
from perceptual_lib.networks.vgg16_voc import RegionVGG16


def test_packaged_profiles_load() -> None:
    assert {"demo", "smoke", "paper"} <= set(profile_names())
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name
        for given in (profile.methods, *(getattr(profile, game).settings for game in profile.games)):
            assert all(settings.keys() <= find_method(method).settings.keys() for method, settings in given.items())


def test_paper_profile_is_the_papers() -> None:
    profile = load_profile("paper")
    assert profile.classifier.model == "vgg19_bn" and profile.localization.pictures == 2000
    assert profile.settings == {
        "layers": "0-12", "margin_target": -2.0, "layer_weight": 10_000.0, "pixel_weight": 1.0,
        "normalize_layers": False, "max_iter": 200,
    }  # fmt: skip


def test_the_papers_rivals_of_table_1_are_grey_and_no_others() -> None:
    profile = load_profile("paper")
    grey = {name for name, given in profile.localization.settings.items() if given.get("reduction") == "grey"}
    assert grey == {"guided_backprop", "guided_grad_cam", "smoothgrad", "integrated_gradients"}
    others = [profile.methods, *(getattr(profile, game).settings for game in profile.games if game != "localization")]
    assert not any("reduction" in given for settings in others for given in settings.values())


@pytest.mark.parametrize(
    ("game", "network", "last", "pool4"),
    [("localization", vgg19_bn, "features.51", "features.39"), ("pointing", RegionVGG16, "features.29", "features.23")],
)
def test_the_paper_names_its_layers(game: str, network, last: str, pool4: str) -> None:
    profile = load_profile("paper")
    settings = profile.methods | getattr(profile, game).settings
    methods = {"grad_cam", "guided_grad_cam", "normgrad", "selective_normgrad"} & set(getattr(profile, game).methods)
    assert {{**profile.methods[name], **settings[name]}["layer"] for name in methods} == {last}
    assert settings["excitation_backprop"]["layer"] == pool4
    with torch.device("meta"):
        features = network().features
    # The last ReLU, before the last pool; and the pool before that.
    assert [type(each) for each in features][int(last[9:]) :] == [nn.ReLU, nn.MaxPool2d]
    pools = [index for index, each in enumerate(features) if isinstance(each, nn.MaxPool2d)]
    assert pools[3] == int(pool4[9:])


def test_the_papers_masks_blurs_and_boxes() -> None:
    profile = load_profile("paper")
    of_rise = ("samples", "cells", "share")
    assert profile.pointing.settings["rise"]["scores"] == "sigmoid"  # TorchRay's
    assert tuple(profile.methods["rise"][name] for name in of_rise) == (6000, 8, 0.1)
    assert tuple(profile.pointing.settings["rise"][name] for name in of_rise) == (8000, 7, 0.5)
    assert profile.localization.sigmas == list(range(1, 31)) and profile.localization.pinned == 20
    assert profile.pointing.sigmas == list(range(101)) and profile.pointing.pinned == {1.0: 48, 1.5: 30}
    assert profile.pointing.selection == profile.pointing.ranges == 500
    assert profile.pointing.range_scales == [1.0, 1.5]  # both panels


def test_demo_settings_are_the_embedded_networks_own(embedded) -> None:
    from perceptual_lib.core.selection import select_layers

    names = [activation.name for activation in embedded.activations]
    settings, own = load_profile("demo").settings, embedded.settings
    assert select_layers(settings.pop("layers"), names) == select_layers(own.pop("layers"), names)
    assert settings.pop("max_iter") <= own.pop("max_iter")  # the demo is in a hurry
    assert own.items() <= settings.items()


def test_the_classifier_computes_in_the_profiles_precision(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    for text, precision in (("", "full"), ("\nclassifier: {precision: tf32}", "tf32")):
        path.write_text(f"description: x{text}")
        assert load_profile(path).load_classifier().precision == precision


@pytest.mark.parametrize(("said", "sigmas"), [("0-3", [0, 1, 2, 3]), ("20-20", [20]), ("[0, 2.5]", [0, 2.5])])
def test_whole_numbers_between_two(tmp_path, said: str, sigmas: list) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"description: x\nlocalization: {{sigmas: {said}}}")
    assert load_profile(path).localization.sigmas == sigmas


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    with pytest.raises(InputError, match=r"\$IMAGENET_ROOT, which is not set"):
        load_profile("paper").load_photographs()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("description: x\nsigmma: 3", r"unknown key 'sigmma' \(nearest: sigma\); there are"),
        ("description: x\nperturbation: {layer: 0-3}", r"unknown key 'perturbation.layer' \(nearest: layer"),
        ("description: x\nclassifier: {modell: a}", r"unknown key 'classifier.modell' \(nearest: model\)"),
        ("description: x\nqqq: 1", "unknown key 'qqq'; there are description"),
        ("description: x\nclassifier: {precision: half}", "classifier.precision is 'half'"),
        ("description: x\nsigma: wide", "sigma is 'wide'"),
        ("description: x\nsigma: -1", "sigma is -1"),
        ("description: x\nbatch_size: 2.5", "batch_size is 2.5"),
        ("description: x\nperturbation: {margin_target: 1}", "perturbation: margin_target must be below 0"),
        ("description: x\nperturbation: {max_iter: 0}", "perturbation: max_iter must be a whole number, at least 1"),
        ("description: x\nlocalization: {sigmas: 3-1}", "localization.sigmas is '3-1': input should be a valid list"),
        ("description: x\nlocalization: {sigmas: -3}", "localization.sigmas is -3: input should be a valid list"),
        ("description: x\nperturbation: {multilabel: true}", "unknown key 'perturbation.multilabel'"),
        ("description: x\nrandomization: {subsets: {rise: 3}}", "unknown key 'randomization.subsets'"),
        ("description: x\nrandomization: {ranges: 3}", "unknown key 'randomization.ranges'"),
        ("description: x\nrandomization: {granularity: stage}", "unknown key 'randomization.granularity'"),
        ("description: x\npointing: {classifier: {modell: a}}", r"'pointing.classifier.modell' \(nearest: model\)"),
        ("description: x\nchange: {methods: [rise]}", "change.methods.0 is 'rise'"),
        ("description: x\nphotographs: {limit: '20'}", "photographs.limit is '20'"),
        ("sigma: 3", "description is missing"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("description: x\nsigma: 3\nsigma: 4", "is not YAML: sigma is said twice"),
        ("description: x\npointing: {pinned: {1: 20, 1.0: 48}}", "is not YAML: 1 is said twice"),
        (
            "description: x\nchange: {ranges: 3, ranges_after: 3}",
            "change: ranges_after is 3, and must be below ranges, 3",
        ),
        (
            "description: x\nchange: {ranges: 5, ranges_after: 3, range_pictures: {0-2: 3}}",
            "change: ranges_after is 3, and must be below 0-2, 3",
        ),
        (
            "description: x\nchange: {range_pictures: {0-2: 3}}",
            "change: range_pictures are in place of ranges, which is 0",
        ),
        ("description: x\nlocalization: {sigmas: [1, 2.5, 1.0]}", "localization.sigmas: 1.0 is said twice"),
        ("description: x\nlocalization: {sigmas: []}", "localization.sigmas is"),
        ("description: x\nlocalization: {sigmas: [.inf]}", "localization.sigmas.0 is inf"),
        ("description: x\nlocalization: {methods: [rise, rise]}", "localization.methods: rise is said twice"),
        (
            "description: x\npointing: {pinned: {1.2: 3}}",
            "pointing: pinned is said of 1.2, which is none of the scales",
        ),
        ("description: x\npointing: {pinned: {1.5: 7}}", "pointing: pinned is 7, which is none of the sigmas"),
        ("description: x\nlocalization: {pinned: 17.5}", "localization: pinned is 17.5, which is none of the sigmas"),
        ("description: x\nlocalization: {layer_weights: [3.0, 3]}", "localization.layer_weights: 3.0 is said twice"),
        ("description: x\nchange: {methods: [perceptual, perceptual]}", "change.methods: perceptual is said twice"),
        ("base: demo\nphotographs: 5", "photographs is 5"),
        ("base: false", "there is no profile 'False'"),
        ("name: other\ndescription: x", "must not set its name"),
        ("folder: other\ndescription: x", "must not set its name or folder"),
        ("1: 2", "keys must be words"),
        ("description: x\nsigma: .inf", "sigma is inf: input should be a finite number"),
        ("description: x\ninsertion_deletion: {sweep: [.inf]}", "insertion_deletion.sweep.0 is inf"),
        ("description: x\npointing: {smooth: {rise: .inf}}", "pointing.smooth.rise is inf"),
        ("description: x\npointing: {pinned: {.nan: 3}}", "pointing.pinned.nan"),
        ("description: x\ninsertion_deletion: {sweep: [2, 2.0]}", "insertion_deletion.sweep: 2.0 is said twice"),
        ("description: x\npointing: {scales: [0.0001]}", "pointing.scales.0 is 0.0001: .* equal to 0.1"),
        ("description: x\npointing: {scales: []}", r"pointing.scales is \[\]: list should have at least 1 item"),
        (
            "description: x\nperturbation: {layers: null}",
            "perturbation.layers is None: .* valid string or .* valid integer or .* valid list",
        ),
        ("description: x\nperturbation: {layers: [0, 2.5]}", "perturbation.layers.1 is 2.5: .* valid integer or"),
        ("description: x\nstr: 1", "unknown key 'str'"),
        ("description: x\nshown: [2.5]", "shown.0 is 2.5: input should be a valid string or"),
        ("description: x\nmethods: {rise: {samples: null}}", "methods.rise.samples is None: .* or .* valid string"),
    ],
)
def test_one_clear_sentence(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)


def test_a_profile_builds_on_another(tmp_path) -> None:
    (tmp_path / "few.txt").write_text("b\n")
    (tmp_path / "mine.yaml").write_text(
        "base: paper\ndescription: x\nphotographs: {source: /x, names: few.txt}\nperturbation: {max_iter: 3}\n"
        "localization: {pictures: 4, settings: {perceptual: {layers: 1-2}}}\npointing: null"
    )
    (tmp_path / "deeper.yaml").write_text("base: mine.yaml\nsigma: 7")
    paper, deeper = load_profile("paper"), load_profile(tmp_path / "deeper.yaml")
    assert deeper.name == "deeper" and deeper.sigma == 7 and deeper.description == "x" and deeper.folder == tmp_path
    assert deeper.settings == paper.settings | {"max_iter": 3} and "pointing" not in deeper.games
    assert deeper.localization.ranges == paper.localization.ranges and deeper.localization.pictures == 4
    assert deeper.localization.settings == paper.localization.settings | {"perceptual": {"layers": "1-2"}}
    (tmp_path / "mine.yaml").write_text("base: deeper.yaml")
    with pytest.raises(InputError, match="deeper.yaml builds on itself"):
        load_profile(tmp_path / "deeper.yaml")
    (tmp_path / "mine.yaml").write_text("base: papper")
    with pytest.raises(InputError, match="no profile 'papper'"):
        load_profile(tmp_path / "mine.yaml")


def test_unknown_and_missing_profiles(tmp_path) -> None:
    with pytest.raises(
        InputError,
        match="no profile 'demmo'; there are demo, imagenet-300, imagenet-700, imagenet-700-further, lite1, lite2",
    ):
        load_profile("demmo")
    with pytest.raises(InputError, match="no profile 'None'"):
        load_profile(None)
    with pytest.raises(InputError, match="cannot be read"):
        load_profile(tmp_path / "none.yaml")


def test_shown_photographs_in_the_profiles_order() -> None:
    profile = load_profile("demo")
    photographs = profile.load_photographs()
    assert [photograph.name for photograph in profile.pick_shown(photographs)] == profile.shown
    targets = [photograph.target for photograph in photographs]
    paper = load_profile("paper")
    classes = paper.model_copy(update={"shown": [999_999, targets[7], targets[2]]})  # the first: no such photograph
    assert classes.pick_shown(photographs) == [photographs[targets.index(targets[each])] for each in (7, 2)]
    assert paper.model_copy(update={"shown": [999_999]}).pick_shown(photographs) == photographs[:4]
    with pytest.raises(InputError, match="lacks 4 of the 4 images that profile demo names, imagenet_17 for one"):
        profile.pick_shown(photographs[4:])


def test_a_list_of_names_picks_photographs_in_its_order(tmp_path) -> None:
    (tmp_path / "few.txt").write_text("b\na\nb\n")  # one that is named twice counts once
    (tmp_path / "own.yaml").write_text(f"description: x\nphotographs: {{source: {tmp_path}, names: few.txt}}")
    for name in "abc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    assert [photograph.name for photograph in load_profile(tmp_path / "own.yaml").load_photographs()] == ["b", "a"]
    (tmp_path / "few.txt").write_text("a\nd\ne\n")
    with pytest.raises(InputError, match="lacks 2 of the 3 images that profile own names, d for one"):
        load_profile(tmp_path / "own.yaml").load_photographs()
    (tmp_path / "few.txt").unlink()
    with pytest.raises(InputError, match="few.txt, which cannot be read"):
        load_profile(tmp_path / "own.yaml").load_photographs()
