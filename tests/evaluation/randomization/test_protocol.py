"""Cascading randomization: which tensors change and to what; agreement of maps against SciPy and scikit-image."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from stand_ins import assert_same_state, model_state
from torch import nn

from perceptual_lib import Classifier, InputError, explain, load_photographs
from perceptual_lib.evaluation.randomization.protocol import (
    cascade,
    compute,
    fresh_network,
    rank_correlation,
    structural_similarity,
)
from perceptual_lib.networks.classifier import stages
from perceptual_lib.networks.special import SPECIAL


def untrained() -> nn.Sequential:
    """Convolutions "body.0", "body.3" and "body.5", a batch norm behind the first two, and "head"."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
    )
    network = nn.Sequential()
    network.add_module("body", body)
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", nn.Flatten())
    network.add_module("head", nn.Linear(4, 5))
    return network


def small_network() -> nn.Sequential:
    """The same, trained: no number is as it was."""
    network = untrained()
    for tensor in network.state_dict().values():
        tensor += 3 + torch.rand(tensor.shape).to(tensor.dtype)
    return network


def filled(value: float) -> nn.Sequential:
    """A network with one value in all places."""
    network = small_network()
    for tensor in network.state_dict().values():
        tensor.fill_(value)
    return network


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """The modules that differ, if only in one bit."""
    values = after.state_dict()
    return {
        name.rpartition(".")[0] for name, tensor in before.state_dict().items() if not torch.equal(tensor, values[name])
    }


def test_exactly_the_named_layers_and_the_batch_norms_behind_them_change() -> None:
    network = small_network()
    copies = dict(cascade(network, fresh=filled(7)))
    expected = {
        "head": {"head"},
        "body.5": {"head", "body.5"},
        "body.3": {"head", "body.5", "body.4", "body.3"},
        "body.0": {"head", "body.5", "body.4", "body.3", "body.1", "body.0"},
    }
    assert list(copies) == list(expected)
    for layer, copy in copies.items():
        assert changed(network, copy) == expected[layer]
        assert changed(filled(7), copy).isdisjoint(expected[layer])


def test_layers_between_keep_what_they_have_learned_but_for_batch_norms() -> None:
    network = small_network()
    (_, first), (_, second) = cascade(network, ["head", "body.0"], fresh=filled(7))
    assert changed(network, first) == {"head"}
    assert changed(network, second) == {"head", "body.0", "body.1", "body.4"}


def test_a_block_changes_as_a_whole() -> None:
    ((layer, copy),) = cascade(small_network(), ["body"], fresh=filled(7))
    assert layer == "body" and changed(filled(7), copy) == {"head"}


def test_batch_norms_are_reset_with_their_statistics() -> None:
    *_, (_, last) = cascade(small_network(), fresh=untrained())
    for norm in (last.body[1], last.body[4]):
        values = {name: tensor.tolist() for name, tensor in norm.state_dict().items()}
        assert values == {
            "weight": [1] * 4,
            "bias": [0] * 4,
            "running_mean": [0] * 4,
            "running_var": [1] * 4,
            "num_batches_tracked": 0,
        }


def test_the_network_and_the_copies_are_their_own() -> None:
    network = small_network().double().train()
    before = model_state(network)
    copies = [copy for _, copy in cascade(network, fresh=untrained())]
    values = [{name: tensor.clone() for name, tensor in copy.state_dict().items()} for copy in copies]
    for tensor in copies[0].state_dict().values():
        tensor.zero_()
    for copy, value in zip(copies[1:], values[1:], strict=True):
        assert all(torch.equal(tensor, value[name]) for name, tensor in copy.state_dict().items())
        assert copy.training and next(copy.parameters()).dtype == torch.double
    assert_same_state(before, model_state(network))


def test_a_layer_keeps_its_untrained_values() -> None:
    weights = [copy.head.weight for _, copy in cascade(small_network(), fresh=untrained())]
    assert all(torch.equal(early, late) for early, late in pairwise(weights))


def test_values_of_a_network_by_name_are_those_of_its_library() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    network = fresh_network("squeezenet1_1", seed=3)
    assert torch.equal(torch.rand(3), expected)  # torch's own random numbers are not used up
    last = network.classifier[1]  # torchvision: normal with a deviation of 0.01, which PyTorch's default is not
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.01) and not last.bias.any()
    again, other = fresh_network("squeezenet1_1", seed=3), fresh_network("squeezenet1_1", seed=4)
    assert not changed(network, again) and "classifier.1" in changed(network, other)


def test_the_layers_of_the_paper() -> None:
    with torch.device("meta"):  # its structure, without 144 million numbers
        network = torchvision.models.vgg19_bn()
    modules = dict(network.named_modules())
    convolutions, last_of_each = [], []
    for path, module in network.features.named_children():
        if isinstance(module, nn.Conv2d):
            convolutions.append(f"features.{path}")
        elif isinstance(module, nn.MaxPool2d):
            last_of_each.append(convolutions[-1])
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    expected = (*reversed(linear), *reversed(last_of_each[1:]), convolutions[0])
    assert SPECIAL["vgg19_bn"].stages == expected == stages(Classifier(network, name="vgg19_bn"))
    assert stages(network) == expected  # whatever it is wrapped in


def test_the_stages_of_the_embedded_network(embedded: Classifier) -> None:
    blocks = [f"blocks.{block}" for block in reversed(range(7))]
    assert stages(embedded) == ("classifier", "conv_head", *blocks, "conv_stem")
    *_, (_, last) = cascade(embedded, fresh=(fresh := fresh_network("efficientnet_lite0", seed=1)))
    assert isinstance(last, Classifier) and last.name == embedded.name and not changed(fresh, last.network)


@pytest.mark.parametrize(
    ("layers", "fresh", "message"),
    [
        (["head", "neck"], filled(7), "no layer 'neck' with weights; it has head, body.5, body.3, body.0"),
        (["pool"], filled(7), "no layer 'pool' with weights"),
        (["head"], nn.Linear(4, 5), "other layers"),
    ],
)
def test_bad_input(layers: list[str], fresh: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cascade(small_network(), layers, fresh=fresh)  # at once, before a copy is asked for


def test_rank_correlation() -> None:
    generator = np.random.default_rng(0)
    maps, others = generator.integers(0, 5, (2, 6, 9, 7)) + generator.integers(0, 2, (2, 6, 9, 7))  # many ties
    expected = [spearmanr(one.ravel(), other.ravel()).statistic for one, other in zip(maps, others, strict=True)]
    assert rank_correlation(maps, others) == pytest.approx(expected)
    assert rank_correlation(maps, np.exp(maps)) == pytest.approx(np.ones(6))
    assert rank_correlation(torch.from_numpy(maps), -maps) == pytest.approx(-np.ones(6))
    by_hand = rank_correlation([[[1, 2, 3, 4]]], [[[10, 30, 20, 40]]])
    assert by_hand == pytest.approx([1 - 6 * 2 / (4 * 15)])  # squared differences of ranks: 0, 1, 1, 0


def test_similarity() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    maps, others = np.random.default_rng(0).random((2, 3, 30, 24)) * 5 - 2
    others[0] += 3 * maps[0]
    scaled = [(each - each.min((1, 2), keepdims=True)) / np.ptp(each, (1, 2))[:, None, None] for each in (maps, others)]
    published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = [metrics.structural_similarity(one, other, **published) for one, other in zip(*scaled, strict=True)]
    assert structural_similarity(maps, others) == pytest.approx(expected, abs=1e-12)
    assert structural_similarity(torch.from_numpy(maps), 7 * maps + 1) == pytest.approx(np.ones(3))


def test_constant_maps() -> None:
    varied, constant = np.random.default_rng(0).random((2, 1, 12, 12)) * [[[[1]]], [[[0]]]] + 4
    for first, second in ((varied, constant), (constant, varied), (constant, constant)):
        assert rank_correlation(first, second).tolist() == [0]
    assert structural_similarity(constant, 2 * constant).tolist() == [1]
    assert 0 <= structural_similarity(varied, constant)[0] < 0.1


@pytest.mark.parametrize("compare", [rank_correlation, structural_similarity])
@pytest.mark.parametrize(
    ("maps", "others", "message"),
    [
        (np.zeros((12, 12)), np.zeros((12, 12)), "one shape"),
        (np.zeros((2, 12, 12)), np.zeros((1, 12, 12)), "one shape"),
        (np.zeros((0, 12, 12)), np.zeros((0, 12, 12)), "one shape"),
        (np.zeros((1, 12, 12)), np.full((1, 12, 12), np.nan), "finite"),
    ],
)
def test_maps_that_cannot_be_compared(compare, maps: np.ndarray, others: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(maps, others)


def test_maps_smaller_than_the_window() -> None:
    with pytest.raises(InputError, match="at least 11 x 11"):
        structural_similarity(np.zeros((1, 10, 12)), np.zeros((1, 10, 12)))


def test_shard(embedded: Classifier) -> None:
    photographs = load_photographs(limit=2)
    pictures = [photograph.open() for photograph in photographs]
    boxes = [photograph.scaled_boxes(224, 224) for photograph in photographs]
    layers = ["classifier", "blocks.3"]
    before = model_state(embedded)
    random = {"model": "efficientnet_lite0", "layers": layers, "seed": 2}
    arrays = compute(embedded, pictures, method="gradient", settings={}, sigma=0.0, boxes=boxes, **random)
    assert_same_state(before, model_state(embedded))
    images = embedded.preprocess(pictures)
    targets = embedded(images).argmax(1)
    assert arrays["maps"].shape == (2, 3, 224, 224) and arrays["maps"].dtype == np.float16
    fresh = fresh_network("efficientnet_lite0", seed=2)
    networks = [embedded, *(copy for _, copy in cascade(embedded, layers, fresh=fresh))]
    for stage, network in enumerate(networks):
        maps = explain(network, images, targets, method="gradient").numpy()
        kept = arrays["maps"][:, stage] * arrays["maps_scales"][:, stage, None, None]
        assert np.allclose(kept, maps, rtol=1e-3, atol=1e-4 * maps.max())
        correlations = [
            spearmanr(one.ravel(), arrays["maps"][row, 0].ravel()).statistic for row, one in enumerate(maps)
        ]
        assert arrays["correlation"][:, stage] == pytest.approx(correlations, abs=1e-3)
    assert arrays["ssim"].shape == (2, 3) and arrays["ssim"][:, 0] == pytest.approx([1, 1])
    assert (arrays["correlation"][:, 1:] < 0.9).all() and (arrays["ssim"][:, 1:] < 0.9).all()
