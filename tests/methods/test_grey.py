"""The grey maps of Table 1's rivals against PyTorch CNN Visualizations, written out plainly, image by image."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib import InputError, explain
from perceptual_lib.evaluation.places import scale_and_blur

TARGETS = [3, 0]
SAMPLES, STEPS = 4, 10


class Features(nn.Module):
    """Convolutions and ReLUs, then a linear layer, as the package asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()
        )
        self.classifier = nn.Linear(8 * 20 * 15, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


@pytest.fixture
def network() -> Features:
    torch.manual_seed(0)
    return Features().double().eval()


@pytest.fixture
def pictures() -> Tensor:
    spread = torch.tensor([1.0, 2.0], dtype=torch.double).view(2, 1, 1, 1)  # of two ranges of values
    return spread * torch.randn(2, 3, 40, 30, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def gradient(network: nn.Module, image: Tensor, target: int) -> np.ndarray:
    """(C, H, W) of an image (1, C, H, W)."""
    image = image.clone().requires_grad_()
    network(image)[0, target].backward()
    return image.grad[0].numpy()


def guided(network: Features, image: Tensor, target: int) -> np.ndarray:
    def positive(_module: nn.Module, to_input: tuple[Tensor], _to_output: tuple[Tensor]) -> tuple[Tensor]:
        return (to_input[0].clamp(min=0),)

    hooks = [each.register_full_backward_hook(positive) for each in network.features if isinstance(each, nn.ReLU)]
    result = gradient(network, image, target)
    for hook in hooks:
        hook.remove()
    return result


def cam(network: Features, image: Tensor, target: int) -> np.ndarray:
    """(H, W), scaled to [0, 1] as the package does before it enlarges it."""
    activation = network.features(image).detach().requires_grad_()
    network.classifier(activation.flatten(1))[0, target].backward()
    weights = activation.grad[0].mean((1, 2))
    coarse = sum(weight * channel for weight, channel in zip(weights, activation.detach()[0], strict=True)).clamp(min=0)
    coarse = (coarse - coarse.min()) / (coarse.max() - coarse.min())
    return F.interpolate(coarse[None, None], image.shape[2:], mode="bilinear")[0, 0].numpy()


def smooth(network: Features, image: Tensor, target: int) -> np.ndarray:
    sigma = 4 / (image.max() - image.min()).item()
    noise = torch.randn(SAMPLES, *image.shape[1:], dtype=image.dtype, generator=torch.Generator().manual_seed(0))
    return sum(gradient(network, image + sigma**2 * each, target) for each in noise) / SAMPLES


def integrated(network: Features, image: Tensor, target: int) -> np.ndarray:
    return sum(gradient(network, k / STEPS * image, target) for k in range(STEPS + 1)) / STEPS


def grey(gradients: np.ndarray) -> np.ndarray:
    total = np.abs(gradients).sum(0)
    least, most = total.min(), np.percentile(total, 99)
    return np.clip((total - least) / (most - least), 0, 1)


@pytest.mark.parametrize(
    ("method", "settings", "plainly"),
    [
        ("guided_backprop", {}, guided),
        ("guided_grad_cam", {"layer": "features.3"}, lambda *given: cam(*given) * guided(*given)),
        ("smoothgrad", {"samples": SAMPLES, "multiplier": 4.0}, smooth),
        ("integrated_gradients", {"steps": STEPS, "points": "even"}, integrated),
    ],
)
def test_grey_maps_are_the_packages(network: Features, pictures: Tensor, method: str, settings: dict, plainly) -> None:
    maps = explain(network, pictures, torch.tensor(TARGETS), method=method, reduction="grey", **settings)
    for map, image, target in zip(maps.numpy(), pictures, TARGETS, strict=True):
        # To single precision, in which captum has the weights of its points.
        assert np.allclose(map, grey(plainly(network, image[None], target)), rtol=0, atol=1e-6)
        assert map.min() == 0 and (map == 1).mean() == pytest.approx(0.01, abs=1e-3)


def test_grad_cam_is_the_packages_once_the_game_has_scaled_it(network: Features, pictures: Tensor) -> None:
    maps = explain(network, pictures, torch.tensor(TARGETS), method="grad_cam", layer="features.3")
    theirs = torch.tensor(
        np.stack([cam(network, image[None], target) for image, target in zip(pictures, TARGETS, strict=True)])
    )
    assert torch.allclose(scale_and_blur(maps), scale_and_blur(theirs), rtol=0, atol=1e-9)


def test_a_map_of_few_places_is_cut_to_them(network: Features, pictures: Tensor) -> None:
    """Where less than a hundredth of the map is above 0, the 99th percentile is 0, too: what is above it is 1."""
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.weight[3].view(8, 20, 15)[:, 0, 0] = 1.0  # a corner of the last activation
    maps = explain(network, pictures, 3, method="guided_backprop", reduction="grey")
    plain = explain(network, pictures, 3, method="guided_backprop")
    assert 0 < (plain > 0).double().mean() < 0.01 and (maps == (plain > 0)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "guided_backprop", "reduction": "mean"}, "reduction is max or grey, not 'mean'"),
        ({"method": "integrated_gradients", "points": "odd"}, "or even, with 2; not odd and 100"),
        ({"method": "integrated_gradients", "points": "even", "steps": 1}, "or even, with 2; not even and 1"),
    ],
)
def test_settings_that_there_are_not(network: Features, pictures: Tensor, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(network, pictures, 0, **settings)
