"""Explanations against TorchRay, captum, and values written out by hand."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torchvision
from stand_ins import TinyNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.activations import freeze
from perceptual_lib.core.saliency import input_gradient
from perceptual_lib.methods import PerceptualBall, explain
from perceptual_lib.methods.gradients import guided_gradient
from perceptual_lib.methods.layers import enlarge
from perceptual_lib.networks.classifier import Classifier

LAST = {"vgg16": "features.29", "vgg19_bn": "features.51", "efficientnet_lite0": "bn2"}
ROUNDING = 1e-4  # of the map's maximum


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


@pytest.fixture(scope="module")
def vgg16() -> Classifier:
    return random_network("vgg16")


@pytest.fixture(scope="module")
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


TARGETS = torch.tensor([3, 7])


def assert_agree(ours: Tensor, theirs: Tensor, tolerance: float = ROUNDING) -> None:
    """(B, H, W) each, relative to the largest value of each image. A Grad-CAM may be 0 all over; then both are."""
    assert ours.shape == theirs.shape
    largest = theirs.abs().amax((1, 2))
    assert (largest > 0).any()
    assert ((ours - theirs).abs().amax((1, 2)) <= tolerance * largest).all()


@contextmanager
def out_of_place(network: nn.Module) -> Iterator[None]:
    """captum's hooks fail on in-place ReLUs, and TorchRay's probe on a layer that one follows."""
    modules = [module for module in network.modules() if getattr(module, "inplace", False)]
    try:
        for module in modules:
            module.inplace = False
        yield
    finally:
        for module in modules:
            module.inplace = True


# TorchRay


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


# Excitation backprop where TorchRay does otherwise, or fails


def test_excitation_by_hand() -> None:
    """p_j = x_j sum_i w+_ij p_i / sum_k w+_ik x_k on one convolution of 1 x 1 and one linear layer."""
    network = TwoLayers()
    # Activations (3, 4), (6, 8), (0, 0), (12, 16); of the head's row [3 0 5 1; -4 2 12 1] the positive part times
    # these: (9, 0), (0, 16), (0, 0), (12, 16), which is 53 in all.
    expected = torch.tensor([[[9.0, 16.0], [0.0, 28.0]]]) / 53
    maps = explain(network, network.image, 0, method="excitation_backprop", layer="relu")
    assert torch.allclose(maps, expected)


def test_excitation_is_divided_where_a_residual_joins() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Linear(4, 9)
            nn.init.uniform_(self.branch.weight)
            nn.init.uniform_(self.head.weight)

        def forward(self, images: Tensor) -> Tensor:
            stem = self.relu(self.stem(images))
            branch = self.relu(self.branch(stem))
            branch += stem
            return self.head(branch.mean((2, 3)))

    torch.manual_seed(0)
    maps = explain(Residual(), torch.randn(2, 3, 8, 8), TARGETS, method="excitation_backprop", layer=0)
    assert torch.allclose(maps.sum((1, 2)), torch.ones(2))  # what starts at the class arrives, and once


def test_excitation_on_the_embedded_network(embedded: Classifier, pictures: Tensor) -> None:
    maps = explain(embedded, pictures, TARGETS, method="excitation_backprop")
    others = explain(embedded, pictures, TARGETS + 100, method="excitation_backprop")
    assert (maps.amax((1, 2)) > 0).all() and (maps >= 0).all()
    assert ((maps - others).abs().amax((1, 2)) > 1e-3 * maps.amax((1, 2))).all()
    alone = explain(embedded, pictures[1:], TARGETS[1:], method="excitation_backprop")
    assert_agree(maps[1:], alone)


# captum


def captum_maps(method: str, classifier: nn.Module, pictures: Tensor, layer: nn.Module | None = None) -> Tensor:
    """captum's attribution (B, C, H, W), or (B, 1, h, w) of a layer."""
    attr = pytest.importorskip("captum.attr")
    settings = {"Saliency": {"abs": False}, "LayerGradCam": {"relu_attributions": True}}
    settings["GuidedGradCam"] = {"interpolate_mode": "bilinear"}
    layers = () if layer is None else (layer,)
    with warnings.catch_warnings(), freeze(classifier), out_of_place(classifier):
        warnings.simplefilter("ignore")  # that it sets hooks, and fills gradients
        attribution = getattr(attr, method)(classifier, *layers)
        return attribution.attribute(pictures.clone(), target=TARGETS, **settings.get(method, {})).detach()


def test_gradient_is_captums(classifier: Classifier, pictures: Tensor) -> None:
    theirs = captum_maps("Saliency", classifier, pictures).abs().amax(1)
    assert_agree(explain(classifier, pictures, TARGETS, method="gradient"), theirs)


@pytest.mark.parametrize(("method", "name"), [("deconvnet", "Deconvolution"), ("guided_backprop", "GuidedBackprop")])
def test_changed_relus_are_captums(method: str, name: str, vgg: Classifier, pictures: Tensor) -> None:
    theirs = captum_maps(name, vgg, pictures).abs().amax(1)
    assert_agree(explain(vgg, pictures, TARGETS, method=method), theirs)


def test_grad_cam_is_captums(classifier: Classifier, pictures: Tensor) -> None:
    layer = classifier.network.get_submodule(LAST[classifier.name])
    theirs = enlarge(captum_maps("LayerGradCam", classifier, pictures, layer)[:, 0], pictures)
    assert_agree(explain(classifier, pictures, TARGETS, method="grad_cam"), theirs)


def test_guided_grad_cam_is_captums(vgg: Classifier, pictures: Tensor) -> None:
    layer = vgg.network.get_submodule(LAST[vgg.name])
    theirs = captum_maps("GuidedGradCam", vgg, pictures, layer).abs().amax(1)
    assert_agree(explain(vgg, pictures, TARGETS, method="guided_grad_cam"), theirs)


def test_guided_backprop_where_captum_gives_the_plain_gradient(embedded: Classifier, pictures: Tensor) -> None:
    """captum changes `nn.ReLU` modules; the embedded network has ReLU6."""
    plain = captum_maps("Saliency", embedded, pictures)
    assert torch.allclose(captum_maps("GuidedBackprop", embedded, pictures), plain, atol=1e-6)
    with freeze(embedded):
        ours = guided_gradient(embedded, pictures, TARGETS)
    assert (ours - plain).norm() > 0.5 * plain.norm()


def test_guided_backprop_of_functions() -> None:
    """A network that calls `F.relu` gets what captum gives for the same network with modules."""

    class Network(nn.Module):
        def __init__(self, function: nn.Module | None) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)])
            self.modules_used = None if function is None else nn.ModuleList([nn.ReLU() for _ in self.layers])
            self.head = nn.Linear(8, 9)

        def forward(self, images: Tensor) -> Tensor:
            for index, layer in enumerate(self.layers):
                images = layer(images)
                images = F.relu(images) if self.modules_used is None else self.modules_used[index](images)
            return self.head(images.mean((2, 3)))

    functions, modules = Network(None), Network(nn.ReLU())
    pictures = torch.randn(2, 3, 12, 12)
    ours, plain = guided_gradient(functions, pictures, TARGETS), input_gradient(functions, pictures, TARGETS)
    assert torch.allclose(captum_maps("GuidedBackprop", functions, pictures), plain)
    assert not torch.allclose(ours, plain, atol=0.1 * plain.abs().max().item())
    assert torch.allclose(captum_maps("GuidedBackprop", modules, pictures), ours)


def test_smoothgrad_is_captums_on_average(tiny: TinyNetwork, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    image = images[:1]
    noise = 0.15 * (image.max() - image.min()).item()
    torch.manual_seed(0)
    with warnings.catch_warnings(), freeze(tiny):
        warnings.simplefilter("ignore")
        tunnel = attr.NoiseTunnel(attr.Saliency(tiny))
        settings = {"nt_samples": 2000, "nt_samples_batch_size": 500, "stdevs": noise, "abs": False, "target": 1}
        theirs = tunnel.attribute(image, **settings).abs().amax(1)
    ours = explain(tiny, image, 1, method="smoothgrad", samples=1000)
    plain = explain(tiny, image, 1, method="gradient")
    difference = (ours - theirs).norm() / theirs.norm()
    assert difference < 0.06 and difference < 0.25 * (plain - theirs).norm() / theirs.norm()


# By themselves


def test_integrated_gradients_are_complete(tiny: TinyNetwork, images: Tensor) -> None:
    """The mean gradient along the line from 0, times the image, is what the logit gains along it."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    targets = torch.tensor([0, 1, 2, 3])
    tiny.eval()
    mean = sum(
        weight / 2 * input_gradient(tiny, (node + 1) / 2 * images, targets)
        for node, weight in zip(nodes, weights, strict=True)
    )
    gain = (tiny(images) - tiny(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0]
    # The gradient has steps, at the ReLUs, which a sum over 100 places meets to within their distance.
    assert torch.allclose((mean * images).sum((1, 2, 3)), gain, rtol=0.02, atol=1e-3)
    assert_agree(explain(tiny, images, targets, method="integrated_gradients"), mean.abs().amax(1), 1e-6)


class TwoLayers(nn.Module):
    """A convolution of 1 x 1 to two channels, 3 x and 4 x, ReLU, and a linear layer on the eight values."""

    image = torch.tensor([[[[1.0, 2.0], [-1.0, 4.0]]]])

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.relu, self.head = nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Linear(8, 2)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[3, 0, 5, 1, -4, 2, 12, 1], [0, 0, 0, 0, 0, 0, 0, 1]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.convolution(images)).flatten(1))


def test_normgrad_by_hand() -> None:
    network = TwoLayers()
    # Place by place: activations (3, 4), (6, 8), (0, 0), (12, 16), of norm 5, 10, 0, 20;
    # the logit's gradients (3, -4), (0, 2), (5, 12), (1, 1), of norm 5, 2, 13, sqrt(2).
    expected = torch.tensor([[[25, 20], [0, 20 * 2**0.5]]])
    assert torch.allclose(explain(network, network.image, 0, method="normgrad"), expected)
    # The other class reads the second channel's last place alone: gradients 0, 0, 0, (0, 1).
    expected = torch.tensor([[[0.0, 0.0], [0.0, 20.0]]])
    assert torch.allclose(explain(network, network.image, 1, method="normgrad"), expected)


def test_selective_normgrad_by_hand() -> None:
    network = TwoLayers()
    # Products (9, -16), (0, 16), (0, 0), (12, 16); positive parts (9, 0), (0, 16), (0, 0), (12, 16).
    expected = torch.tensor([[[9.0, 16.0], [0.0, 20.0]]])
    assert torch.allclose(explain(network, network.image, 0, method="selective_normgrad"), expected)


# As a part of others


def test_quantus_takes_it(tiny: TinyNetwork, images: Tensor) -> None:
    """Model randomization: the explanation is of the model that Quantus hands over."""
    quantus = pytest.importorskip("quantus")
    seen = []

    def explain_func(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_) -> np.ndarray:
        seen.append(model)
        attribution = PerceptualBall(model, layers="0-1", max_iter=5)
        values = attribution.attribute(torch.as_tensor(inputs, dtype=torch.double), torch.as_tensor(targets))
        assert values.shape == inputs.shape
        return values.mean(1, keepdim=True).numpy()  # (B, 1, H, W)

    metric = quantus.MPRT(disable_warnings=True, display_progressbar=False, seed=0)
    scores = metric(tiny.eval(), images.numpy(), np.array([0, 1, 2, 3]), explain_func=explain_func)
    values = np.array(list(scores.values()) if isinstance(scores, dict) else scores, dtype=float)
    assert values.size and np.isfinite(values).all() and (np.abs(values) <= 1 + 1e-9).all()
    assert len(set(map(id, seen))) > 1
