"""A network is the same network by its name, as a module, in a classifier and in what others put around it."""

import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from stand_ins import TinyNetwork
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, PerceptualBall, explain, load_classifier, perceptual_ball
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.core.settings import architecture
from perceptual_lib.networks.classifier import stages
from perceptual_lib.networks.special import Special, special


def narrow(network: nn.Module) -> None:
    """Leave a VGG few of the weights of its linear layers, which are most of all and have no settings."""
    for number, size in {0: (25088, 8), 3: (8, 8), 6: (8, 1000)}.items():
        network.classifier[number] = nn.Linear(*size)


@pytest.mark.parametrize("name", ["vgg19_bn", "vgg16"])
def test_an_architecture_has_its_settings_through_every_door(name) -> None:
    torch.manual_seed(0)
    by_name = load_classifier(name, "random", device="cpu")
    narrow(by_name.network)
    with torch.device("meta"):
        module = getattr(torchvision.models, name)()
        narrow(module)
    module.load_state_dict(by_name.network.state_dict(), assign=True)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    doors = [module, load_classifier(module), Classifier(module, name="mine"), torch.compile(module, backend="eager")]
    for settings in ({"method": "perceptual", "max_iter": 3}, {"method": "excitation_backprop"}):
        expected = explain(by_name, images, 1, **settings)
        for door in doors:
            torch.testing.assert_close(explain(door, images, 1, **settings), expected, rtol=1e-3, atol=1e-7)
    assert all(stages(door) == stages(by_name) for door in doors[:3])
    assert load_classifier(module).name == name
    assert load_classifier(module).settings == Classifier(module, name="mine").settings == by_name.settings


def test_a_vgg_is_known_by_its_convolutions_whatever_became_of_its_norms() -> None:
    with torch.device("meta"):
        plain, normed = torchvision.models.vgg16(), torchvision.models.vgg16_bn()
    assert (architecture(plain), architecture(normed)) == ("vgg16", "vgg16_bn")
    around = torchvision.transforms.Normalize([0.5] * 3, [0.5] * 3)
    assert architecture(nn.Sequential(around, normed, nn.LayerNorm(1000))) == "vgg16_bn"
    for other, known in ((nn.SyncBatchNorm, "vgg16_bn"), (lambda _: nn.Identity(), "vgg16_bn"), (Grouped, "")):
        network = copy.deepcopy(normed)
        for place, module in enumerate(network.features):
            if isinstance(module, nn.BatchNorm2d):
                network.features[place] = other(module.num_features)
        assert architecture(network) == known


@pytest.mark.parametrize("behind", [nn.ReLU, nn.MaxPool2d])
def test_paths_of_a_vgg_are_not_said_of_one_whose_modules_have_moved(behind) -> None:
    """As where dropout stands between them for small pictures."""
    moved, network = [], torchvision.models.vgg16(init_weights=False)
    for module in network.features:
        moved += [module, nn.Dropout()] if isinstance(module, behind) else [module]
    network.features = nn.Sequential(*moved)
    narrow(network)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    last = max(place for place, module in enumerate(moved) if isinstance(module, nn.ReLU))
    expected = explain(network, images, 1, method="grad_cam", layer=f"features.{last}")
    torch.testing.assert_close(explain(network, images, 1, method="grad_cam"), expected)
    convolutions = [f"features.{place}" for place, module in enumerate(moved) if isinstance(module, nn.Conv2d)]
    assert special(network) == Special() and {*stages(network)} & {*convolutions}


def test_a_vgg_with_other_activations_keeps_its_paths() -> None:
    with torch.device("meta"):
        network = torchvision.models.vgg19_bn()
    expected = special(network)
    for place, module in enumerate(network.features):
        if isinstance(module, nn.ReLU):
            network.features[place] = nn.Softplus()
    assert special(network) == expected != Special()
    for place in range(1, len(network.features) - 1):  # the activation first
        if isinstance(network.features[place], nn.BatchNorm2d):
            network.features[place], network.features[place + 1] = network.features[place + 1], network.features[place]
    assert special(network) == Special(guided_layers=expected.guided_layers)


class Grouped(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(4, channels)


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
    other = load_classifier(own, precision="tf32")
    assert other.precision == "tf32" and other.network is own.network and own.precision == "bf16"
    assert load_classifier(own, precision="full").precision == "full"


def test_calls_are_of_one_mind(tiny: TinyNetwork, images: Tensor) -> None:
    """Nothing said, part of it said: the function, captum's manner and the method agree."""
    for settings in ({}, {"layers": 0}, {"layer_weight": 3.0}, {"layers": (), "max_iter": 4}):
        few = {"max_iter": 6} | settings
        found = perceptual_ball(tiny, images, **few).delta
        assert torch.equal(PerceptualBall(tiny, **few).attribute(images), found.square())
        assert torch.equal(explain(tiny, images, sigma=0, **few), saliency_map(found))
        of_two = PerceptualBall(tiny, **few).attribute(images, target=2)
        assert torch.equal(of_two, perceptual_ball(tiny, images, 2, **few).delta.square())


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


def test_hooks_and_a_forward_on_a_classifier_are_obeyed_by_all(tiny: TinyNetwork, images: Tensor) -> None:
    tiny.eval()

    class Negative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny

        def forward(self, images: Tensor) -> Tensor:
            return self.network(-images)

    hooked, replaced, answers = (Classifier(tiny, input_size=(12, 12)) for _ in range(3))
    hooked.register_forward_pre_hook(lambda _, given: (-given[0],))
    replaced.forward = lambda given: tiny(-given)
    answers.__class__ = type("Answers", (Classifier,), {"forward": lambda self, given: {"logits": tiny(-given)}})
    for settings in (
        {"method": "gradient"},
        {"method": "perceptual", "layers": 0, "max_iter": 4},
        {"method": "rise", "samples": 5},
        {"method": "grad_cam", "layer": 1},
    ):
        expected = explain(Negative(), images, 1, **settings)
        for door in (hooked, replaced, answers):
            torch.testing.assert_close(explain(door, images, 1, **settings), expected)
    assert [each.name for each in answers.activations] == ["network.relu", "network.relu_1", "network.silu"]


def test_preprocessing_is_found_behind_wrappers(tiny: TinyNetwork) -> None:
    own = Classifier(tiny, mean=[0.1] * 3, std=[0.2] * 3, input_size=(12, 14), name="mine", class_names=list("abcde"))
    for outer in (nn.DataParallel(own), torch.compile(own, backend="eager"), nn.Sequential(own)):
        found = load_classifier(outer)
        assert (found.name, found.input_size, found.class_names) == ("mine", (12, 14), tuple("abcde"))
        assert torch.equal(found.mean, own.mean) and torch.equal(found.std, own.std)
    vit = timm.create_model("vit_tiny_patch16_224")
    for outer in (nn.DataParallel(vit), nn.Sequential(vit), torch.optim.swa_utils.AveragedModel(vit)):
        assert load_classifier(outer).mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: explain(lambda given: net(given), x), "a module, not function"),
        (lambda net, x: perceptual_ball(net.forward, x), "a module, not method"),
        (lambda net, x: perceptual_ball(net, x, target=1), r"no setting 'target' \(nearest: targets"),
        (lambda net, x: explain(net, x, method="gradient", target=1), "the class is targets"),
        (lambda net, x: PerceptualBall(net, steps=3).attribute(x), "no setting 'steps'"),
        (lambda net, x: perceptual_ball(net, x, max_iter=5.5), "max_iter must be a whole number"),
        (lambda net, x: perceptual_ball(net, x, margin_target=float("nan")), "finite numbers"),
        (lambda net, x: explain(net, x, method="smoothgrad", samples=0), "samples is at least 1"),
        (lambda net, x: explain(net, x, method="integrated_gradients", steps=0), "with at least 1 step"),
        (lambda net, x: explain(net, x, method="rise", samples=4, batch_size=2.5), "whole number, at least 1"),
        (
            lambda net, x: explain(net, x, method="rise", samples=2.0),
            "samples of rise is 2.0, and must be a whole number",
        ),
        (
            lambda net, x: explain(net, x, method="smoothgrad", noise="0.1"),
            "noise of smoothgrad is '0.1', and must be a n",
        ),
        (lambda net, x: explain(net, x, method="extremal_perturbation", areas=0.1), "is 0.1, and must be a list"),
        (
            lambda net, x: explain(net, 0 * x, method="smoothgrad", multiplier=4.0),
            r"which is 0 in \[0, 1, 2, 3\]",
        ),
        (lambda net, x: explain(net, x, method="grad_cam", layer=net), "a range, not TinyNetwork"),
        (lambda net, x: perceptual_ball(net, x, layers=True), "not True"),
        (lambda net, x: perceptual_ball(net, x, layers=slice(0, 1)), "not slice"),
        (lambda net, x: load_classifier(nn.Conv2d(4, 5, 3)).settings, "fails on a blank image of 3 x 224 x 224"),
    ],
)
def test_what_is_no_setting_is_a_sentence(tiny: TinyNetwork, images: Tensor, call, message) -> None:
    with pytest.raises(InputError, match=message):
        call(tiny, images)


def test_numbers_of_numpy_and_torch_are_layers(tiny: TinyNetwork, images: Tensor) -> None:
    expected = perceptual_ball(tiny, images, layers=1, max_iter=3).delta
    for layers in (np.array(1), torch.tensor(1), np.int64(1), [np.int32(1)]):
        assert torch.equal(perceptual_ball(tiny, images, layers=layers, max_iter=3).delta, expected)


def test_features_are_no_logits(tiny: TinyNetwork, images: Tensor) -> None:
    class Headless(TinyNetwork):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            pooled = super().forward(images)
            return {"last_hidden_state": pooled[:, None], "pooler_output": pooled}

    with pytest.raises(InputError, match=r"returns features \(last_hidden_state, pooler_output\) and no logits"):
        explain(Headless().double(), images, method="gradient")


def test_half_a_classifier_has_its_settings() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).bfloat16()
    own = Classifier(network, input_size=(16, 16))
    assert list(own.settings["layers"]) == [0]
    assert explain(own, own.preprocess(Image.new("RGB", (20, 20), "red")), max_iter=2).dtype == torch.float32
