"""Which activations a network has, against torchvision's own graph and the list of the paper's layers."""

import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from stand_ins import TinyNetwork, assert_same_state, model_state
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from perceptual_lib import InputError
from perceptual_lib.core.activations import trace
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.saliency import relative_changes
from perceptual_lib.core.selection import select_layers

VGG19BN_RELUS = [2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51]  # reference.md, section 1


def activations_of(network: nn.Module, size: int = 64) -> list:
    with freeze(network):
        return trace(network, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))[1]


def test_vgg19_bn_has_the_papers_sixteen() -> None:
    with torch.device("meta"):  # its 143 million weights are not needed to list its layers
        network = torchvision.models.vgg19_bn()
        with freeze(network):
            names = [activation.name for activation in trace(network, torch.zeros(1, 3, 64, 64))[1]]
    assert names == [f"features.{index}" for index in VGG19BN_RELUS] + ["classifier.1", "classifier.4"]


def test_resnet_counts_each_call_of_a_reused_relu() -> None:
    network = torchvision.models.resnet18().eval()
    inputs = torch.randn(2, 3, 64, 64)
    nodes = [name for name in get_graph_node_names(network)[1] if "relu" in name]
    with freeze(network):
        _, found, values = trace(network, inputs)
        with torch.no_grad():
            expected = create_feature_extractor(network, nodes)(inputs)
    assert [activation.name for activation in found] == nodes
    assert len(nodes) == 17 and len({id(module) for module in network.modules() if isinstance(module, nn.ReLU)}) == 9
    # torchvision hands out the tensors themselves: those that in-place operations overwrite are compared no further.
    for name, value in zip(nodes, values, strict=True):
        assert torch.allclose(value, expected[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("name", "function", "count"),
    [
        ("densenet121", "relu", 1 + 2 * 58 + 3 + 1),  # stem, two a dense layer, transitions, the last by function
        ("vit_b_16", "gelu", 12),
        ("convnext_tiny", "gelu", 18),
        ("squeezenet1_1", "relu", 1 + 3 * 8 + 1),
        ("shufflenet_v2_x0_5", "relu", None),
    ],
)
def test_other_families(name: str, function: str, count: int | None) -> None:
    network = torchvision.models.get_model(name)
    found = activations_of(network, 224 if name.startswith("vit") else 64)
    assert {activation.function for activation in found} == {function}
    assert count is None or len(found) == count
    assert len({activation.name for activation in found}) == len(found)


def test_functions_are_named_by_their_module() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = TinyNetwork()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            constant = F.relu(self.scale)  # of a parameter alone: not an activation of the image
            return torch.relu(self.block(F.gelu(images))) * constant + torch.sigmoid(images.mean())

    found = activations_of(Functional(), 12)
    assert [activation.name for activation in found] == ["gelu", "block.relu", "block.relu_1", "block.silu", "relu"]
    assert found[1].shape == (8, 6, 6)


def test_trace_keeps_values_that_are_overwritten_later(tiny: TinyNetwork, images: torch.Tensor) -> None:
    tiny.eval()
    with torch.no_grad():
        first = F.relu(tiny.norm(tiny.first(images)))
        second = F.relu(tiny.second(first))
        third = F.silu(tiny.second(second))
    with freeze(tiny):
        _, _, values = trace(tiny, images)
    for value, expected in zip(values, (first, second, third), strict=True):
        assert torch.allclose(value, expected)


def test_nothing_is_left_behind(tiny: TinyNetwork, images: torch.Tensor) -> None:
    tiny.train()
    tiny.norm.eval()
    tiny.first.weight.requires_grad = False
    before = model_state(tiny)
    with freeze(tiny):
        trace(tiny, images)
    with pytest.raises(RuntimeError), freeze(tiny):
        trace(tiny, images[:, :2])
    assert_same_state(before, model_state(tiny))


def test_batch_must_come_first(images: torch.Tensor) -> None:
    class TimeFirst(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return F.relu(images.flatten(2).permute(2, 0, 1)[:7]).mean(0)

    with pytest.raises(InputError, match="not a multiple of the batch"):
        trace(TimeFirst(), images)


NAMES = ["stem", "body.relu", "body.relu_1", "head"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((), []),
        (2, [2]),
        (-1, [3]),
        (range(1, 3), [1, 2]),
        ("1-3", [1, 2, 3]),  # as the paper writes ranges: both ends included
        ("2", [2]),
        ("-1", [3]),
        (["-2", "0"], [0, 2]),
        ("body.relu_1", [2]),
        (["head", 0, range(0, 2)], [0, 1, 3]),
        (np.str_("body.relu_1"), [2]),
        (np.int64(2), [2]),
        (torch.tensor(-1), [3]),
        (np.array([1, 2]), [1, 2]),
    ],
)
def test_select_layers(layers, expected: list[int]) -> None:
    assert select_layers(layers, NAMES) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (4, "layer 4 is out of range: the network has 4 activations"),
        ("3-1", r"range\(3, 2\) of layers is empty; give the lower end first"),
        (range(3, 1), "empty; give the lower end first"),
        (-5, "out of range"),
        ("0-9", "out of range"),
        ("tail", "no layer 'tail'"),
        ("-5", "out of range"),
        ("--2", "no layer"),
        ([1.5], "not 1.5"),
        (np.float64(2.7), "not .*2.7"),
        (torch.tensor(2.7), "not .*2.7"),
        (np.bool_(True), "not .*True"),
    ],
)
def test_layers_that_do_not_exist(layers, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_layers(layers, NAMES)


def test_network_without_activations() -> None:
    with pytest.raises(InputError, match="layer 0 is out of range: the network has no activations that are known"):
        select_layers(0, [])


def test_relative_changes_of_a_linear_network_by_hand() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 12, bias=False), nn.ReLU())
    nn.init.eye_(network[2].weight)
    images = torch.ones(2, 3, 2, 2)
    delta = torch.stack([torch.full((3, 2, 2), 0.5), torch.full((3, 2, 2), -3.0)])
    assert torch.allclose(relative_changes(network, images, delta), torch.tensor([[0.5, 1.0], [0.5, 1.0]]))


def test_relative_changes_that_are_no_numbers_are_not_0() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 12), nn.ReLU())
    images, delta = torch.rand(2, 3, 2, 2), torch.zeros(2, 3, 2, 2, dtype=torch.double)
    delta[0, 0, 0, 0] = torch.nan
    found = relative_changes(network, images, delta)
    assert found[:, 0].isnan().all() and (found[:, 1] == 0).all() and found.dtype == torch.float32
    with pytest.raises(InputError, match=r"delta must have the inputs' shape \(2, 3, 2, 2\), not \(2, 3, 1, 2\)"):
        relative_changes(network, images, delta[:, :, :1])


def test_relative_changes_on_another_path_are_one_sentence() -> None:
    class Looking(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            value = images.relu()
            return (value.sigmoid().relu() if images.mean() > 1 else value).mean((2, 3))

    with pytest.raises(InputError, match="takes another path for the changed image"):
        relative_changes(Looking(), torch.rand(1, 3, 2, 2), torch.full((1, 3, 2, 2), 5.0))


@pytest.fixture
def without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the shape is left out: PyTorch has it for tensors on meta in Python, where it takes half the time."""
    for owner, name in ((F, "batch_norm"), (F, "layer_norm"), (torch.Tensor, "normal_"), (torch.Tensor, "clamp_")):
        monkeypatch.setattr(owner, name, lambda tensor, *_, **__: tensor.clone())


def names_on_meta(make) -> list[str]:
    """Activation names of a network without weights: only the path through it is followed."""
    with (
        torch.device("meta"),
        warnings.catch_warnings(record=True) as caught,
    ):  # libraries warn of what they will rename
        network = make()
        size = 299 if type(network).__name__ == "Inception3" else 224
        if hasattr(network, "pretrained_cfg"):
            size = timm.data.resolve_model_data_config(network)["input_size"][1]
        with freeze(network):
            names = [activation.name for activation in trace(network, torch.zeros(2, 3, size, size))[1]]
    assert not any("not seen" in str(each.message) for each in caught)
    return names


@pytest.mark.slow
def test_every_family_of_torchvision_has_activations(without_numbers) -> None:
    models = reversed(torchvision.models.list_models(module=torchvision.models))
    families = {torchvision.models.get_model_builder(name).__module__: name for name in models}
    assert len(families) > 15 and families.pop("torchvision.models.regnet")  # which cannot be made without memory
    for name in families.values():
        names = names_on_meta(lambda name=name: torchvision.models.get_model(name))
        assert names and len(set(names)) == len(names), name


@pytest.mark.slow
def test_every_family_of_timm_has_activations(without_numbers) -> None:
    families = {timm.models.model_entrypoint(name).__module__: name for name in reversed(timm.list_models())}
    families["timm.models.sequencer"] = "sequencer2d_s"
    assert len(families) > 50
    for name in families.values():
        short = {"layers": (1, 1, 1, 1)} if name == "sequencer2d_s" else {}  # LSTMs, written out in Python too
        names = names_on_meta(lambda name=name, short=short: timm.create_model(name, **short))
        assert names and len(set(names)) == len(names), name


def test_a_second_call_is_not_called_as_another_module(images: torch.Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.relu_1, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(432, 5)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.head(self.relu_1(self.relu(self.relu(values) - 0.1) - 0.1).flatten(1))

    network = Twice().double()
    with freeze(network):
        assert [each.name for each in trace(network, images)[1]] == ["relu", "relu_2", "relu_1"]
