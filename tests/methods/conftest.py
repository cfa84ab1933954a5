"""Networks that explanations are compared on."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from perceptual_lib.networks.classifier import Classifier


def random_network(name: str) -> Classifier:
    """With a small head: the linear layers of a VGG are nine tenths of its weights, and of the time of these tests."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    network.features.to_empty(device="cpu")
    network.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return Classifier(network, name=name).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def vgg16() -> Classifier:
    return random_network("vgg16")


@pytest.fixture(scope="session")
def vgg19_bn() -> Classifier:
    return random_network("vgg19_bn")


@pytest.fixture(params=["vgg16", "vgg19_bn"])
def vgg(request) -> Classifier:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["vgg16", "vgg19_bn", "embedded"])
def classifier(request) -> Classifier:
    return request.getfixturevalue(request.param)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
