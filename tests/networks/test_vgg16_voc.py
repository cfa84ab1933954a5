"""The paper's network for VOC: its regions, and weights from files of random numbers."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from perceptual_lib import InputError
from perceptual_lib.networks import vgg16_voc as voc_network
from perceptual_lib.networks.sources import load_classifier
from perceptual_lib.networks.vgg16_voc import VOC_CLASSES, RegionVGG16

DOG = VOC_CLASSES.index("dog")


def test_its_activations_are_vgg16s() -> None:
    """ReLU 9 and 12, which the paper holds, are features.22 and features.29."""
    with torch.device("meta"):
        network = RegionVGG16()
        vgg = torchvision.models.vgg16(num_classes=20)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.ReLU)]
    assert names == [name for name, module in vgg.named_modules() if isinstance(module, nn.ReLU)]
    assert (names[9], names[12]) == ("features.22", "features.29")
    assert [module.ceil_mode for module in network.modules() if isinstance(module, nn.MaxPool2d)] == [True] * 5


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A state dict of torchvision's VGG16 with 20 outputs, whose large layers hold few numbers in memory.

    A network that is to be given it draws no weights before: that takes a second.
    """
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda weight, **_: nn.init.constant_(weight, torch.nan))
    with torch.device("meta"):
        own = torchvision.models.vgg16(num_classes=20).state_dict()
    state = {}
    for key, value in own.items():
        small = noise(value.shape[0], *[1] * (value.ndim - 1)) / value[0].numel()
        state[key] = small.expand(value.shape)
    return state


def test_weights_from_a_file(tmp_path: Path, drawn: dict) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(drawn, path)
    classifier = load_classifier("vgg16_voc", path, "cpu")
    assert not classifier.training and not classifier.network.classifier[2].training
    assert classifier.class_name(DOG) == "dog" and classifier.name == "vgg16_voc"
    own = classifier.network.state_dict()
    assert own.keys() == drawn.keys()
    assert all(torch.equal(own[key].flatten(), value.flatten()) for key, value in drawn.items())


@pytest.mark.parametrize("change", ["key", "shape", "kind"])
def test_weights_of_another_network(tmp_path: Path, drawn: dict, change: str) -> None:
    path = tmp_path / "other.pth"
    if change == "key":
        drawn.pop("features.0.bias")
    elif change == "shape":
        drawn["classifier.6.weight"] = torch.zeros(1, 1).expand(1000, 4096)
    if change == "kind":
        path.write_text("no weights")
    else:
        torch.save(drawn, path)
    with pytest.raises(InputError, match="of another network than vgg16_voc|is not a state dict"):
        load_classifier("vgg16_voc", path, "cpu")
    with pytest.raises(InputError, match="there is no weights file"):
        load_classifier("vgg16_voc", tmp_path / "none.pth")


def test_published_weights(tmp_path: Path, drawn: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """From torch's folder of checkpoints where they are there, and only those that were published."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "vgg16_voc-b050e8c3.pth.tar"

    def download(address: str, target: str, hash_prefix: str) -> None:
        assert hash_prefix == "b050e8c3"
        assert address == "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar" and target == str(path)
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match=r"had from https://\S+ \(OSError\); download it and put it at .*checkpoints"):
        load_classifier("vgg16_voc", device="cpu")
    torch.save(drawn, path)
    with pytest.raises(InputError, match="its hash differs"):
        load_classifier("vgg16_voc", device="cpu")
    monkeypatch.setattr(voc_network, "WEIGHTS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    classifier = load_classifier("vgg16_voc", device="cpu")
    assert torch.equal(classifier.network.features[0].weight, drawn["features.0.weight"])


@pytest.mark.slow
def test_a_region_is_torchvisions_vgg16() -> None:
    """Each region is what the linear layers make of 7 x 7 of the features."""
    classifier = load_classifier("vgg16_voc", "random", "cpu")
    with torch.device("meta"):
        vgg = torchvision.models.vgg16(num_classes=20).eval()
    own = vgg.state_dict()
    weights = {key: value.reshape(own[key].shape) for key, value in classifier.network.state_dict().items()}
    vgg.load_state_dict(weights, assign=True)
    images = 100 * noise(1, 3, 224, 298)
    with torch.no_grad():
        responses = classifier(images)
        features = classifier.network.features(images)
        for column in range(4):
            window = features[..., column : column + 7]
            assert torch.allclose(responses[:, :, 0, column], vgg.classifier(window.flatten(1)), atol=1e-5)
        assert torch.allclose(classifier(images[..., :224])[:, :, 0, 0], vgg(images[..., :224]), atol=1e-5)
