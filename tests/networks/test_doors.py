"""A network is the same network by its name, as a module, in a classifier and in what others put around it."""

import pytest
import timm
import torch
import torchvision
from PIL import Image
from stand_ins import TinyNetwork
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, PerceptualBall, explain, load_classifier, perceptual_ball
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.networks.classifier import stages


def seeded(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", ["vgg19_bn", "vgg16"])
def test_an_architecture_has_its_settings_through_every_door(name) -> None:
    by_name = seeded(lambda: load_classifier(name, "random", device="cpu"))
    module = seeded(lambda: getattr(torchvision.models, name)())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    doors = [module, load_classifier(module), Classifier(module, name="mine"), torch.compile(module, backend="eager")]
    for settings in ({"method": "perceptual", "max_iter": 3}, {"method": "excitation_backprop"}):
        expected = explain(by_name, images, 1, **settings)
        for door in doors:
            torch.testing.assert_close(explain(door, images, 1, **settings), expected, rtol=1e-3, atol=1e-7)
    assert all(stages(door) == stages(by_name) for door in doors[:3])
    assert load_classifier(module).name == name
    assert load_classifier(module).settings == Classifier(module, name="mine").settings == by_name.settings


def test_timms_networks_bring_their_preprocessing() -> None:
    """Inception's mean and standard deviation are .5, and its size 299."""
    module = timm.create_model("inception_v4")
    expected = {"name": "inception_v4", "input_size": (299, 299), "interpolation": Image.Resampling.BICUBIC}
    for door in (load_classifier("timm/inception_v4", "random"), load_classifier(module), Classifier(module)):
        assert {key: getattr(door, key) for key in expected} == expected
        assert door.mean.flatten().tolist() == door.std.flatten().tolist() == [0.5] * 3
        assert door.class_name(1) == "goldfish" and len(door.class_names) == 1000
    own = Classifier(module, mean=[0.1] * 3, input_size=(64, 64), name="mine")
    assert own.name == "mine" and own.input_size == (64, 64) and own.mean.flatten().tolist() == pytest.approx([0.1] * 3)


def test_a_network_of_ones_own_classes_has_no_names_of_imagenet() -> None:
    module = timm.create_model("resnet18", num_classes=7)
    assert load_classifier(module).class_names == () and load_classifier(module).class_name(3) == "class 3"


def test_a_classifier_is_one_already(tiny: TinyNetwork) -> None:
    own = Classifier(tiny, mean=[0.5] * 3, std=[0.25] * 3, precision="bf16")
    assert load_classifier(own) is own and own.precision == "bf16"
    assert load_classifier(own, precision="tf32").precision == "tf32"


def test_calls_are_of_one_mind(tiny: TinyNetwork, images: Tensor) -> None:
    """Nothing said, part of it said: the function, captum's manner and the method agree."""
    for settings in ({}, {"layers": 0}, {"layer_weight": 3.0}, {"layers": (), "max_iter": 4}):
        few = {"max_iter": 6} | settings
        found = perceptual_ball(tiny, images, **few).delta
        assert torch.equal(PerceptualBall(tiny, **few).attribute(images), found.square())
        assert torch.equal(explain(tiny, images, sigma=0, **few), saliency_map(found))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels(channels) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )
    classifier = Classifier(network, mean=[0.5] * channels, std=[0.25] * channels, input_size=(12, 16))
    assert [each.name for each in classifier.activations] == ["1"]
    images = torch.randn(2, channels, 12, 16)
    for method, settings in {
        "gradient": {},
        "perceptual": {"max_iter": 2},
        "rise": {"samples": 3},
        "grad_cam": {},
    }.items():
        assert explain(classifier, images, method=method, **settings).shape == (2, 12, 16)
    shown = classifier.pixels(images)
    assert shown.shape == (2, 12, 16, 3) and shown.min() >= 0 and shown.max() <= 1
    picture = Image.linear_gradient("L").convert("RGB")
    if channels == 5:
        with pytest.raises(InputError, match="pictures have one channel or three, and Sequential takes 5"):
            classifier.preprocess(picture)
    else:
        read = classifier.preprocess([picture] * 2)
        assert read.shape == (2, channels, 12, 16)
        torch.testing.assert_close(
            read[:, :1], classifier.preprocess(Image.linear_gradient("L"))[:1, :1].expand(2, -1, -1, -1)
        )
        torch.testing.assert_close(classifier.pixels(read)[..., 0] * 2 - 1, read[:, 0] / 2, atol=1e-2, rtol=0)


def test_grey_networks_are_known_by_their_first_convolution() -> None:
    grey = Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert len(grey.mean) == len(grey.std) == 1
    assert grey.preprocess(Image.new("RGB", (30, 20))).shape == (1, 1, 224, 224)
    with pytest.raises(InputError, match="1 and 3 channels"):
        Classifier(grey.network, mean=[0.5], std=[0.2] * 3)
