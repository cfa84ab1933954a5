"""Explanations against captum, and as a part of Quantus."""

import warnings

import numpy as np
import pytest
import torch
from agreement import LAST, TARGETS, assert_agree, out_of_place
from stand_ins import TinyNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.saliency import input_gradient
from perceptual_lib.methods import PerceptualBall, explain
from perceptual_lib.methods.gradients import guided_gradient
from perceptual_lib.methods.layers import enlarge
from perceptual_lib.networks.classifier import Classifier


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
