"""Excitation backprop against TorchRay; methods that both have are compared with captum."""

import pytest
from agreement import TARGETS, assert_agree, out_of_place
from torch import Tensor

from perceptual_lib.core.freezing import freeze
from perceptual_lib.methods import explain
from perceptual_lib.methods.layers import enlarge
from perceptual_lib.networks.classifier import Classifier


def torchray(method: str, classifier: Classifier, pictures: Tensor, layer: str = "") -> Tensor:
    """(B, h, w) at the layer, or the image."""
    attribution = pytest.importorskip("torchray.attribution." + method)
    with freeze(classifier), out_of_place(classifier):
        maps = getattr(attribution, method)(classifier.network, pictures.clone(), TARGETS, saliency_layer=layer)
    return maps[:, 0].detach()


def test_excitation_backprop_is_torchrays(vgg: Classifier, pictures: Tensor) -> None:
    pool4 = {"vgg16": "features.23", "vgg19_bn": "features.39"}[vgg.name]  # where nothing is said
    for layer, said in ((pool4, {}), ("features.8", {"layer": "features.8"}), ("features.0", {"layer": "features.0"})):
        theirs = enlarge(torchray("excitation_backprop", vgg, pictures, layer), pictures)
        assert_agree(explain(vgg, pictures, TARGETS, method="excitation_backprop", **said), theirs)


@pytest.mark.parametrize("layer", ["bn2", "blocks.6"])
def test_excitation_backprop_is_torchrays_at_the_top(layer: str, embedded: Classifier, pictures: Tensor) -> None:
    # Below, the embedded network has what the paper does not speak of: signed activations and residual sums.
    theirs = enlarge(torchray("excitation_backprop", embedded, pictures, layer), pictures)
    assert_agree(explain(embedded, pictures, TARGETS, method="excitation_backprop", layer=layer), theirs)
