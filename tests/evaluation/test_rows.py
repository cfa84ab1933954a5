"""What rows are made of: ranges of layers, subsets."""

import pytest
import torch
import torchvision

from perceptual_lib.core.activations import Activation, trace
from perceptual_lib.evaluation.rows import draw_subset, layer_ranges
from perceptual_lib.networks.vgg16_voc import RegionVGG16


def activations(*sizes: int) -> list[Activation]:
    return [Activation(f"{i}", "relu", (i + 1, size, size)) for i, size in enumerate(sizes)]


def test_ranges_by_activation_and_by_stage() -> None:
    network = activations(8, 8, 4, 2, 2)
    assert layer_ranges(network, "stage") == ["0-1", "0-2", "0-4", "2-2", "2-4", "3-4"]
    assert layer_ranges(network[:3], "activation") == ["0-0", "0-1", "0-2", "1-1", "1-2", "2-2"]


@pytest.mark.parametrize(("name", "count"), [("vgg19_bn", 16), ("vgg16_voc", 13)])
def test_ranges_are_of_the_papers_layers_alone(name: str, count: int) -> None:
    """The classifier's ReLUs are vectors, or of one place where it is made of convolutions."""
    with torch.device("meta"):
        network = RegionVGG16() if name == "vgg16_voc" else torchvision.models.get_model(name)
        found = trace(network.eval(), torch.zeros(1, 3, 224, 224))[1]
    ranges = layer_ranges(found, "activation")
    assert len(found) == count + 2 and len(ranges) == count * (count + 1) // 2
    assert ranges[-1] == f"{count - 1}-{count - 1}" and found[count - 1].name.startswith("features.")
    assert len(layer_ranges(found, "stage")) == 5 * 6 // 2


def test_subsets_are_drawn_with_a_fixed_seed() -> None:
    assert draw_subset(range(100), 5) == (5, 33, 49, 53, 97)
    assert draw_subset("abc", None) == draw_subset("abc", 9) == ("a", "b", "c")
