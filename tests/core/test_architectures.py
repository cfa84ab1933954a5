"""Perturbations of published architectures with random weights."""

import math

import pytest
import torch
from stand_ins import assert_same_state, model_state
from torch import nn

from perceptual_lib import Perturbation, load_classifier, perceptual_ball


def check(result: Perturbation, classifier: nn.Module, inputs: torch.Tensor) -> None:
    """The result is of this network: its margin is the lead of the class over the best other, counted out by hand."""
    assert result.delta.shape == inputs.shape and result.delta.isfinite().all() and not result.failed.any()
    assert result.delta.abs().amax((1, 2, 3)).gt(0).all()
    with torch.no_grad():
        ranked = classifier(inputs + result.delta).sort(1, descending=True)
    for row, label in enumerate(result.targets.tolist()):
        others = ranked.values[row][ranked.indices[row] != label]
        lead = ranked.values[row][ranked.indices[row] == label] - others[0]
        assert math.isclose(result.margin[row], lead, rel_tol=1e-3, abs_tol=1e-3)


def give_it_a_signal(classifier: nn.Module, size: int) -> None:
    """Some random networks end in logits of zero, where there is no margin to change: a head, and batch statistics."""
    head = [module for module in classifier.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
    with torch.no_grad():
        classifier(torch.randn(4 if size < 224 else 1, 3, size, size))
    classifier.eval()


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 64), ("densenet121", 64), ("mobilenet_v3_large", 96), ("convnext_tiny", 64), ("vit_b_16", 224)],
)
def test_architectures_with_random_weights(name: str, size: int) -> None:
    torch.manual_seed(0)
    classifier = load_classifier(name, weights="random", device="cpu")
    give_it_a_signal(classifier, size)
    inputs = torch.randn(2 if size < 224 else 1, 3, size, size)
    count = len(classifier.activations)
    before = model_state(classifier)
    result = perceptual_ball(
        classifier, inputs, layers=range(0, count * 4 // 5), normalize_layers=True, layer_weight=1e-3, max_iter=4
    )
    check(result, classifier, inputs)
    assert_same_state(before, model_state(classifier))


def test_vgg19_bn_with_the_papers_layers() -> None:
    torch.manual_seed(0)
    classifier = load_classifier("vgg19_bn", weights="random", device="cpu")
    inputs = torch.randn(1, 3, 64, 64)
    result = perceptual_ball(classifier, inputs, layers=range(0, 13), layer_weight=1.0, max_iter=4)
    check(result, classifier, inputs)
    assert classifier.settings["layers"] == "0-12"
