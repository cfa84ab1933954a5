"""The graph for pages against PyTorch: networks it covers give the same numbers, others are refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from perceptual_lib import load_classifier
from perceptual_lib.book.explorer.graph import Graph, differences_of, equation_5
from perceptual_lib.core.errors import InputError
from perceptual_lib.methods import explain
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.sources import load_photographs


class Covered(nn.Module):
    """Every call that the graph covers, in ways that EfficientNet-Lite0 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, (5, 3), stride=(2, 3), padding=(2, 0))
        self.norm = nn.BatchNorm2d(8)
        self.groups = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.depth = nn.Conv2d(8, 8, (3, 5), padding=(0, 3), groups=8)
        self.multiplied = nn.Conv2d(8, 16, 3, groups=8)
        self.mixed = nn.Conv2d(16, 8, 3, padding=2, bias=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 12), nn.ReLU())
        self.last = nn.Linear(12, 5, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.norm(self.first(nn.functional.pad(images, (1, 2, 0, 3)))).relu_()
        first = first + nn.functional.relu6(self.groups(first))
        second = self.mixed(torch.relu(self.multiplied(self.depth(first))))
        return self.last(self.head(second + second))


def classifier_of(network: Callable[[], nn.Module]) -> Classifier:
    torch.manual_seed(0)
    network = network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    made = load_classifier(network.eval())
    made.input_size = 32, 41
    return made


def test_the_embedded_network_gives_pytorchs_numbers_and_maps(embedded: Classifier) -> None:
    onnxruntime, classifier = pytest.importorskip("onnxruntime"), embedded
    images = classifier.preprocess(load_photographs(None)[:4])
    file = equation_5(classifier, images)
    session = onnxruntime.InferenceSession(file)
    given = {
        each.name: np.zeros([1 if isinstance(side, str) else side for side in each.shape], np.float32)
        for each in session.get_inputs()
    }
    target = int(classifier(images[:1]).argmax())
    given["image"], given["target"][0, target] = images[:1].numpy(), 1
    cam, gradient = session.run(["cam", "gradient"], given)
    expected = explain(classifier, images[:1], target, method="grad_cam")[0]
    assert np.corrcoef(cam.flatten(), expected.flatten())[0, 1] > 0.9999
    expected = explain(classifier, images[:1], target, method="gradient")[0]
    assert np.corrcoef(np.abs(gradient[0]).max(0).ravel(), expected.flatten())[0, 1] > 0.999


def test_every_rule_is_autograds() -> None:
    classifier = classifier_of(Covered)
    image = torch.rand(1, 3, 32, 41, generator=torch.Generator().manual_seed(0))
    file = equation_5(classifier, image)
    assert min(max(differences_of(classifier, file, image, seed)) for seed in range(6)) < 1e-4


@pytest.mark.parametrize(
    "part",
    [
        nn.MaxPool2d(2),
        nn.SiLU(),
        nn.Conv2d(3, 3, 3, dilation=2),
        nn.BatchNorm2d(3),
        nn.ReflectionPad2d(1),
        nn.Sequential(nn.ZeroPad2d(1), nn.ReLU()),
        nn.ZeroPad1d(1),
    ],
)
def test_what_is_not_covered_is_refused(part: nn.Module) -> None:
    def network() -> nn.Module:
        return nn.Sequential(
            part, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        )

    with pytest.raises(InputError, match="does not cover"):
        equation_5(classifier_of(network), torch.rand(1, 3, 32, 41))


def test_a_network_without_activations_is_refused() -> None:
    plain = classifier_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with pytest.raises(InputError, match="follows no activation"):
        equation_5(plain, torch.rand(1, 3, 32, 41))


def test_a_graph_with_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Graph._linear

    def without_bias(graph: Graph, input: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> str:
        return linear(graph, input, weight)

    monkeypatch.setattr(Graph, "_linear", without_bias)
    with pytest.raises(InputError, match="gives other numbers than the network"):
        equation_5(classifier_of(Covered), torch.rand(1, 3, 32, 41))
