"""Explanations against TorchRay."""

import pytest
from agreement import LAST, TARGETS, assert_agree, out_of_place
from torch import Tensor

from perceptual_lib.core.calling import freeze
from perceptual_lib.methods import explain
from perceptual_lib.methods.layers import enlarge
from perceptual_lib.networks.classifier import Classifier


def torchray(method: str, classifier: Classifier, pictures: Tensor, layer: str = "") -> Tensor:
    """(B, h, w) at the layer, or the image."""
    attribution = pytest.importorskip("torchray.attribution." + method)
    with freeze(classifier), out_of_place(classifier):
        maps = getattr(attribution, method)(classifier.network, pictures.clone(), TARGETS, saliency_layer=layer)
    return maps[:, 0].detach()


def test_gradient_is_torchrays(classifier: Classifier, pictures: Tensor) -> None:
    theirs = torchray("gradient", classifier, pictures)
    assert_agree(explain(classifier, pictures, TARGETS, method="gradient"), theirs)


@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop"])
def test_changed_relus_are_torchrays(method: str, vgg: Classifier, pictures: Tensor) -> None:
    theirs = torchray(method, vgg, pictures)  # which knows ReLU alone, and not the embedded network's ReLU6
    assert_agree(explain(vgg, pictures, TARGETS, method=method), theirs)


def test_grad_cam_is_torchrays(classifier: Classifier, pictures: Tensor) -> None:
    theirs = enlarge(torchray("grad_cam", classifier, pictures, LAST[classifier.name]), pictures)
    assert_agree(explain(classifier, pictures, TARGETS, method="grad_cam"), theirs)
    assert_agree(explain(classifier, pictures, TARGETS, method="grad_cam", layer=LAST[classifier.name]), theirs)


@pytest.mark.parametrize("early", ["features.8", "features.0"])
def test_excitation_backprop_is_torchrays(early: str, vgg: Classifier, pictures: Tensor) -> None:
    pool4 = {"vgg16": "features.23", "vgg19_bn": "features.39"}[vgg.name]
    theirs = enlarge(torchray("excitation_backprop", vgg, pictures, pool4), pictures)
    assert_agree(explain(vgg, pictures, TARGETS, method="excitation_backprop"), theirs)
    theirs = enlarge(torchray("excitation_backprop", vgg, pictures, early), pictures)
    assert_agree(explain(vgg, pictures, TARGETS, method="excitation_backprop", layer=early), theirs)


@pytest.mark.parametrize("layer", ["bn2", "blocks.6"])
def test_excitation_backprop_is_torchrays_at_the_top(layer: str, embedded: Classifier, pictures: Tensor) -> None:
    # Below, the embedded network has what the paper does not speak of: signed activations and residual sums.
    theirs = enlarge(torchray("excitation_backprop", embedded, pictures, layer), pictures)
    assert_agree(explain(embedded, pictures, TARGETS, method="excitation_backprop", layer=layer), theirs)
