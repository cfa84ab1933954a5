"""An explorer of whatever pictures and classes people have."""

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import Layered

from perceptual_lib import Classifier, InputError, load_classifier
from perceptual_lib.book.explorer import Explorer, HeldPlayer
from perceptual_lib.book.explorer.subjects import telling
from perceptual_lib.photographs.photographs import Photograph


def test_pictures_at_hand(tmp_path) -> None:
    """Images without files, arrays, and files of one stem: each is there under a name of its own."""
    paths = [tmp_path / folder / "cat.png" for folder in "ab"]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        path.parent.mkdir()
        Image.new("RGB", (30, 20), colour).save(path)
    pictures = [*paths, Image.new("RGB", (8, 8)), np.zeros((5, 6, 3), np.uint8), Image.open(paths[0])]
    explorer = Explorer(Layered(), pictures, ["gradient"])
    assert list(explorer.subjects) == ["cat", "cat (2)", "picture", "picture (2)", "cat (3)"]
    assert [each["name"] for each in explorer.about["photographs"]] == list(explorer.subjects)
    assert explorer.compute("map/cat (2)/gradient/").shape == (224, 224)
    assert list(Explorer(Layered(), Image.new("RGB", (8, 8)), ["gradient"]).subjects) == ["picture"]
    assert list(Explorer(Layered(), np.zeros((5, 6), np.uint8), ["gradient"]).subjects) == ["picture"]


def test_a_network_of_other_classes_begins_with_its_predictions() -> None:
    """The embedded photographs are of ImageNet: their classes are none of its five."""
    own = Classifier(Layered(), class_names=["ant", "bee", "cat", "dog", "eel"])
    explorer = Explorer(own, methods=["gradient"])
    assert {each["title"] for each in explorer.about["photographs"]} <= set(own.class_names)
    assert explorer.compute(f"map/{explorer.photograph}/gradient/").any()


@pytest.mark.filterwarnings("ignore:the network returns probabilities")
def test_what_a_network_calls_probabilities_is_shown_as_it_is(tmp_path) -> None:
    """A softmax of probabilities would be nearly the same for all classes."""
    sure = torch.nn.Sequential(Layered(), torch.nn.Flatten(), torch.nn.Softmax(1)).eval()
    torch.nn.init.constant_(sure[0][-1].weight, 0)
    sure[0][-1].bias.data = torch.tensor([0.0, 3, 1, 0, 0])
    own, picture = Classifier(sure), Image.new("RGB", (8, 8))
    expected = torch.tensor([0.0, 3, 1, 0, 0]).softmax(0)
    picture.save(tmp_path / "picture.png")
    player = HeldPlayer(
        own, Photograph("picture", tmp_path / "picture.png"), {"none": torch.zeros(1, 3, *own.input_size)}, held=0
    )
    assert player.about["before"][0] == ["class 1", pytest.approx(expected[1].item())]

    explorer = Explorer(own, picture, ["gradient"])
    (told,) = explorer.about["photographs"]
    assert dict(told["classes"]) == pytest.approx(dict(enumerate(expected.tolist())))

    subject, reported = explorer.subjects["picture"], {}
    tell = telling(own, subject, 2, 9, lambda facts, _: reported.update(facts), drawn=True)
    tell(None, (subject.images,), own(subject.images))
    assert (reported["rivals"], reported["probability"]) == pytest.approx(tuple(expected[1:3].tolist()))


@pytest.mark.parametrize(
    "unknown", [{"normalize_layers": False}, {"multilabel": True}, {"tolerance_map": 0.1}], ids=str
)
def test_a_page_says_which_settings_its_searches_do_not_know(unknown: dict) -> None:
    """It would ignore them, and show other maps of a reader's photograph than of its own."""
    classifier = Classifier(Layered(), interpolation=Image.Resampling.BICUBIC)
    explorer = Explorer(classifier, Image.new("RGB", (8, 8)), ["perceptual"]).with_kernel(**unknown)
    assert "normalize_layers" in explorer.about["kernel"]["missing"] and not explorer.kernel


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"method": "nosuch"}, "there is no method 'nosuch' to choose; there are gradient, grad_cam."),
        ({"method": "grad"}, r"there is no method 'grad' to choose \(nearest: .*\); there are gradient, grad_cam."),
        ({"methods": []}, "there is no method '' to choose; there are none."),
        ({"photograph": "nope"}, "there is no photograph 'nope' to choose; there are picture."),
        ({"layers": "0-999"}, "layer 2 is out of range"),
        ({"sigma": -5.0}, "'sigma' trait .* should not be less than 0"),
        ({"alpha": 99.0}, "'alpha' trait .* should not be greater than 10.5"),
        ({"strategy": "most"}, "'strategy' trait .* expected any of .* not the str 'most'"),
        ({"sigmaa": 3.0}, r"Explorer has no 'sigmaa' to choose \(nearest: sigma"),
        ({"classifier": None}, "a network is a module, or one by its name, not NoneType."),
    ],
    ids=str,
)
def test_what_an_explorer_cannot_begin_with_is_one_sentence(wrong: dict, sentence: str) -> None:
    right = {"classifier": Layered(), "images": Image.new("RGB", (8, 8)), "methods": ["gradient", "grad_cam"]}
    with pytest.raises(InputError, match=sentence):
        Explorer(**right | wrong)


def test_one_method_and_keys_that_are_none() -> None:
    explorer = Explorer(Layered(), Image.new("RGB", (8, 8)), "gradient")
    assert explorer.method == "gradient"
    for key in ("map/picture", "map/picture/gradient//ant", "map/picture/perceptual ten/0-1"):
        with pytest.raises(InputError, match=f"there is no map '{key}'; a key is map/PHOTOGRAPH/METHOD/LAYERS."):
            explorer.compute(key)


def test_it_begins_where_the_library_does(of_profiles) -> None:
    vgg = load_classifier("vgg19_bn", "random")
    explorer = Explorer(vgg, of_profiles[:1], ["perceptual"])
    assert explorer.layers == vgg.settings["layers"] == "0-12"
    assert explorer.about["methods"][0]["note"] == "203 forward, 201 backward"
    assert Explorer(Layered(), of_profiles[:1], ["perceptual"], layers="1").layers == "1"
    with pytest.raises(InputError, match="a range of indices, as 0-25, not 'relu'"):
        Explorer(Layered(), of_profiles[:1], ["perceptual"], layers="relu")
