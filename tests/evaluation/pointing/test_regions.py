"""Answers for regions: against the network's logits, sums, and pictures resized by hand."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from stand_ins import Regions, Small, assert_same_state, model_state
from test_methods import NAMES, quick
from torch import nn

from perceptual_lib import InputError, load_classifier, perceptual_ball
from perceptual_lib.core.activations import trace
from perceptual_lib.evaluation.pointing import regions as regions_module
from perceptual_lib.evaluation.pointing.regions import (
    ResponseMaps,
    class_responses,
    class_scores,
    region_inputs,
)
from perceptual_lib.networks import vgg16_voc
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.vgg16_voc import RegionVGG16


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def regions() -> Classifier:
    return load_classifier(Regions())


# --- responses -----------------------------------------------------------------------------------------------


def test_the_mean_response_is_the_logit(embedded: Classifier) -> None:
    before = model_state(embedded)
    images = noise(1, 3, 192, 256)
    with torch.no_grad():
        found = class_responses(embedded)(images)
        logits = embedded(images)
    assert found.shape == (1, 1000, 6, 8)
    assert torch.allclose(found.mean((2, 3)), logits, atol=1e-5)
    assert_same_state(before, model_state(embedded))


def test_a_classifier_of_regions_is_taken_as_it_is(regions: Classifier) -> None:
    assert class_responses(regions) is regions


def test_a_perturbation_takes_the_largest_response(embedded: Classifier) -> None:
    network = class_responses(embedded)
    images = noise(2, 3, 64, 64)
    targets = torch.tensor([3, 500])
    result = perceptual_ball(network, images, targets, layers=0, multilabel=True, max_iter=3, layer_weight=0.1)
    with torch.no_grad():
        found = network(images).flatten(2)
    assert torch.allclose(result.margin_before, found[torch.arange(2), targets].amax(1), atol=1e-4)
    assert ((result.margin + 2).abs() < (result.margin_before + 2).abs()).all()


def test_regions_are_explained_in_the_classifiers_precision(embedded: Classifier) -> None:
    reduced, regions = Classifier(embedded.network, precision="bf16"), Classifier(Regions(), precision="bf16")
    assert class_responses(embedded).precision == "full"
    assert class_responses(reduced).precision == class_responses(regions).precision == "bf16"
    assert class_scores(reduced).precision == class_scores(regions).precision == "bf16"


def test_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match="Small is not an EfficientNet"):
        class_responses(load_classifier(Small()))
    with torch.device("meta"):
        for name, pool in (("mobilenetv3_small_050", "avg"), ("tf_efficientnet_lite0", "max")):
            with pytest.raises(InputError, match="averages over places"):
                ResponseMaps(timm.create_model(name, global_pool=pool))


# --- one score for each class --------------------------------------------------------------------------------


def test_the_score_is_the_sum_over_regions(regions: Classifier, embedded: Classifier) -> None:
    images = noise(2, 3, 40, 60)
    with torch.no_grad():
        found = regions(images)
        scores = class_scores(regions)(images)
    assert found.shape == (2, 5, 3, 4) and scores.shape == (2, 5)
    for row in range(2):
        for target in range(5):
            places = [found[row, target, down, across].item() for down in range(3) for across in range(4)]
            assert scores[row, target].item() == pytest.approx(sum(places), abs=1e-5)
    assert class_scores(embedded) is embedded


def test_layers_keep_their_names(regions: Classifier) -> None:
    network = class_scores(regions)
    assert network.get_submodule("features.1") is regions.network.features[1]
    names = [activation.name for activation in trace(network, noise(1, 3, 40, 40))[1]]
    assert names == [activation.name for activation in regions.activations] == ["features.1"]


@pytest.mark.parametrize("method", NAMES)
def test_every_method_explains_by_regions(regions: Classifier, method: str) -> None:
    before = model_state(regions)
    images, targets = noise(1, 3, 40, 60).repeat(2, 1, 1, 1), torch.tensor([0, 3])
    maps = quick(class_scores(regions), images, targets, method=method)
    assert maps.shape == (2, 40, 60) and maps.std() > 0
    assert torch.equal(*maps) == (method in ("center", "blur_difference"))
    assert_same_state(before, model_state(regions))


# --- what the network is given -------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "size"), [(1.0, (224, 448)), (1.5, (336, 672))])
def test_the_aspect_ratio_is_kept(embedded: Classifier, scale: float, size: tuple) -> None:
    large = picture(200, 100)
    expected = np.asarray(large.resize(size[::-1], embedded.interpolation)) / 127.5 - 1  # the network's [-1, 1]
    images = region_inputs(embedded, large, scale)
    assert images.shape == (1, 3, *size)
    assert np.allclose(images[0].permute(1, 2, 0), expected, atol=1e-5)


def test_the_short_side_is_the_networks_own() -> None:
    classifier = Classifier(nn.Identity(), input_size=(100, 120))
    assert region_inputs(classifier, picture(50, 40), 1.5).shape == (1, 3, 150, 187)


class Nothing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.fixture
def voc_reader(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """The classifier for VOC without its half gigabyte of weights."""
    monkeypatch.setattr(vgg16_voc, "RegionVGG16", Nothing)
    monkeypatch.setattr(regions_module, "RegionVGG16", Nothing)
    return load_classifier("vgg16_voc", "random", "cpu")


@pytest.mark.parametrize(
    ("scale", "size", "places"), [(1.0, (224, 298), (1, 4)), (1.5, (336, 448), (5, 8))], ids=["1 x", "1.5 x"]
)
def test_regions_of_a_picture_of_voc(scale: float, size: tuple, places: tuple) -> None:
    with torch.device("meta"):
        responses = RegionVGG16()(torch.empty(2, 3, *size))
    assert responses.shape == (2, 20, *places)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_network_for_voc_takes_0_to_255_less_the_mean(voc_reader: Classifier, scale: float) -> None:
    images = region_inputs(voc_reader, Image.new("RGB", (500, 375), (200, 100, 50)), scale)
    assert images.shape == ((1, 3, 224, 298) if scale == 1 else (1, 3, 336, 448))
    assert images[0, :, 7, 7].tolist() == pytest.approx([200 - 123.68, 100 - 116.779, 50 - 103.939], abs=1e-4)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (500, 374), (120, 90)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_network_for_voc_reads_as_torchray(voc_reader: Classifier, size: tuple, scale: float) -> None:
    torchray = pytest.importorskip("torchray.benchmark.models")
    expected = torchray.get_transform("voc", round(224 * scale))(picture(*size))
    assert torch.allclose(region_inputs(voc_reader, picture(*size), scale)[0], expected, atol=1e-3)
