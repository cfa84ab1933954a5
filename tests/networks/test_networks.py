"""Networks by name and by hand, their preprocessing, and weights that must not be trusted."""

import os
import pickle

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from perceptual_lib import Classifier, InputError, load_classifier, load_photographs
from perceptual_lib.networks import sources as classifiers


def test_embedded_network_knows_the_embedded_photographs(embedded) -> None:
    """Top-1 is 17 of 20, measured when the weights were first fitted into timm's network."""
    photographs = load_photographs()
    with torch.no_grad():
        predictions = embedded(embedded.preprocess(photographs)).argmax(1).tolist()
    assert sum(p == photograph.target for p, photograph in zip(predictions, photographs, strict=True)) == 17
    assert embedded.class_name(22) == "bald eagle" and embedded.class_index("Bald Eagle") == 22


def test_embedded_network_has_33_activations(embedded) -> None:
    assert len(embedded.activations) == 33
    assert {activation.function for activation in embedded.activations} <= {"relu6", "hardtanh"}
    assert embedded.activations[0].shape == (32, 112, 112)
    assert embedded.settings["layers"] == range(0, 26)


def test_preprocess_warps_and_scales_to_plus_minus_one(embedded) -> None:
    picture = Image.new("RGB", (50, 30), (0, 127, 255))
    inputs = embedded.preprocess(picture)
    assert inputs.shape == (1, 3, 224, 224) and inputs.dtype == torch.float32
    assert torch.allclose(inputs[0, :, 100, 100], torch.tensor([-1.0, 127 / 127.5 - 1, 1.0]), atol=1e-6)
    assert np.allclose(embedded.pixels(inputs)[0, 5, 5], np.array([0, 127, 255]) / 255, atol=1e-6)
    assert embedded.preprocess([picture, picture], size=(64, 96)).shape == (2, 3, 64, 96)


def test_preprocess_equals_torchvisions_own_transform(tmp_path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    picture.save(tmp_path / "noise.png")
    classifier = load_classifier("resnet18", weights="random", device="cpu")
    warp = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((224, 224)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.allclose(classifier.preprocess(tmp_path / "noise.png")[0], warp(picture), atol=1e-6)


def test_no_pictures(embedded) -> None:
    with pytest.raises(InputError, match="no picture"):
        embedded.preprocess([])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("squeezenet1_1", torchvision.models.SqueezeNet),
        ("torchvision/shufflenet_v2_x0_5", torchvision.models.ShuffleNetV2),
        ("timm/resnet10t", timm.models.ResNet),
        ("mobilenetv3_small_050", timm.models.MobileNetV3),
    ],
)
def test_random_networks_by_name(name: str, kind: type) -> None:
    state = torch.random.get_rng_state()
    classifier = load_classifier(name, weights="random", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    again, other = (load_classifier(name, weights="random", device="cpu", seed=seed) for seed in (0, 1))
    assert isinstance(classifier.network, kind) and not classifier.training
    assert len(classifier.class_names) == 1000 and classifier.class_names[0].startswith("tench")
    assert all(torch.equal(a, b) for a, b in zip(classifier.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(classifier.parameters(), other.parameters(), strict=True))


def test_a_module_of_ones_own() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    classifier = load_classifier(network)
    assert isinstance(classifier, Classifier) and classifier.network is network
    assert classifier(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    assert classifier.class_name(1) == "class 1"
    with pytest.raises(InputError, match="initialize a module"):
        load_classifier(network, weights="random")


def test_activations_are_of_the_modules_that_are_there() -> None:
    classifier = Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), input_size=(8, 8))
    assert [each.name for each in classifier.activations] == ["1"]
    assert classifier.activations is classifier.activations  # it is not traced each time
    classifier.network[0] = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU())
    assert [each.name for each in classifier.activations] == ["0.1", "1"]


def test_local_state_dict(tmp_path, monkeypatch) -> None:
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load_classifier("squeezenet1_1", weights="~/weights.pth", device="cpu").network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_weights_of_another_network(tmp_path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    with pytest.raises(InputError, match="weights of another network than squeezenet1_0"):
        load_classifier("squeezenet1_0", weights=path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICIOUS_FOLDER"],)


def test_weights_are_never_executed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALICIOUS_FOLDER", str(tmp_path / "executed"))
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": Malicious()}, path)
    with pytest.raises(InputError, match="not a state dict of tensors"):
        load_classifier("squeezenet1_1", weights=path)
    assert not (tmp_path / "executed").exists()
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="not a state dict"):
        load_classifier("squeezenet1_1", weights=path)


def test_downloads_are_never_executed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's builder would unpickle anything; a hostile file in its cache must be refused."""
    monkeypatch.setenv("MALICIOUS_FOLDER", str(tmp_path / "executed"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({"x": Malicious()}, cache / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(InputError, match="weights of squeezenet1_1 could not be had"):
        load_classifier("squeezenet1_1", device="cpu")
    assert not (tmp_path / "executed").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_none_is_executed_while_another_thread_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    earlier, later = classifiers._tensors_only("no"), classifiers._tensors_only("no")
    earlier.__enter__()
    later.__enter__()
    earlier.__exit__(None, None, None)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    later.__exit__(None, None, None)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_cached_download_is_used(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real path of vgg19_bn's kind of weights, with a stand-in file where torch keeps its downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state, cache / "squeezenet1_1-b8a52dc0.pth")
    loaded = load_classifier("squeezenet1_1", device="cpu").network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_embedded_weights_are_checked_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(classifiers.PACKAGED, "efficientnet_lite0", "57934424" + "0" * 56)
    with pytest.raises(InputError, match="its hash differs"):
        load_classifier()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet5"}, r"no network 'resnet5' in torchvision or timm \(nearest: .*resnet50"),
        ({"model": "timm/vgg19_b"}, "no network"),
        ({"model": "keras/resnet50"}, "no network"),
        ({"model": "squeezenet1_1", "weights": "nowhere.pth"}, "no weights file nowhere.pth"),
        ({"device": "abacus"}, "no device 'abacus' here"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_classifier(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu() -> None:
    with pytest.raises(InputError, match="no device 'cuda' here"):
        load_classifier(device="cuda")


def test_activations_are_the_same_inside_inference_mode(tiny) -> None:
    with torch.inference_mode():
        inside = Classifier(tiny, input_size=(12, 12)).activations
    assert len(inside) == 3 and inside == Classifier(tiny, input_size=(12, 12)).activations


def test_what_a_network_normalizes_itself_is_not_normalized_twice(tiny) -> None:
    own = torchvision.transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    black = Image.new("RGB", (12, 12))
    classifier = Classifier(nn.Sequential(own, tiny), input_size=(12, 12))
    assert (classifier.preprocess(black) == 0).all() and (Classifier(tiny).preprocess(black) < -1).all()


def test_random_weights_do_not_depend_on_torchs_default_device() -> None:
    with torch.device("meta"):
        found = load_classifier("timm/test_byobnet", "random")
    expected = load_classifier("timm/test_byobnet", "random").state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in found.state_dict().items())
