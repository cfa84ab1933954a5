"""The map and its blur, against SciPy and hand-computed pixels."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from stand_ins import TinyNetwork, assert_same_state, model_state

from perceptual_lib import InputError, class_gradient, saliency_map
from perceptual_lib.core.saliency import gaussian_blur

PIXEL = torch.tensor([3.0, 0.0, -4.0]).view(1, 3, 1, 1)  # squares 9, 0, 16


def test_one_pixel_by_hand() -> None:
    assert saliency_map(PIXEL, root=False).item() == pytest.approx(25 / 3)
    assert saliency_map(PIXEL).item() == pytest.approx((25 / 3) ** 0.5)
    gradient = torch.tensor([1.0, 5.0, 2.0]).view(1, 3, 1, 1)  # scaled by its largest magnitude, 5
    assert saliency_map(PIXEL, gradient=gradient).item() == pytest.approx((3 * 1 / 5 + 0 + 4 * 2 / 5) / 3)
    assert saliency_map(PIXEL, gradient=torch.zeros_like(PIXEL)).item() == 0


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(height=st.integers(1, 40), width=st.integers(1, 40), sigma=st.floats(0.05, 30), seed=st.integers(0, 2**16))
def test_blur_equals_scipys(height: int, width: int, sigma: float, seed: int) -> None:
    """Also where the kernel is much larger than the map, and reflected more than once."""
    maps = np.random.default_rng(seed).standard_normal((2, height, width))
    expected = np.stack([gaussian_filter(one, sigma) for one in maps])
    assert np.allclose(gaussian_blur(torch.from_numpy(maps), sigma).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0, 0.5, 2, 5, 20, 100])
def test_blur_of_full_size_maps_in_single_precision(sigma: float) -> None:
    maps = np.random.default_rng(0).random((2, 224, 224), dtype=np.float32)
    expected = np.stack([gaussian_filter(one, sigma) if sigma else one for one in maps])
    assert np.allclose(gaussian_blur(torch.from_numpy(maps), sigma).numpy(), expected, atol=3e-6)


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_sigma_must_be_a_length(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma must be"):
        saliency_map(PIXEL, sigma)


def test_maps_of_whole_numbers_are_not_blurred_to_zeros() -> None:
    with pytest.raises(InputError, match="floating point, not torch.int64"):
        gaussian_blur(torch.eye(4, dtype=torch.long), 2)


def test_shapes_must_fit() -> None:
    with pytest.raises(InputError, match="same shape"):
        saliency_map(torch.zeros(3, 4, 4))
    with pytest.raises(InputError, match="must be tensors"):
        saliency_map(torch.zeros(2, 3, 4, 4).numpy())
    with pytest.raises(InputError, match="same shape"):
        saliency_map(torch.zeros(2, 3, 4, 4), gradient=torch.zeros(1, 3, 4, 4))


def test_class_gradient_by_finite_differences(tiny: TinyNetwork, images: torch.Tensor) -> None:
    before = model_state(tiny)
    gradient = class_gradient(tiny, images, 2)
    assert_same_state(before, model_state(tiny))
    tiny.eval()
    for pixel in [(0, 1, 3, 4), (3, 2, 11, 0)]:
        step = torch.zeros_like(images)
        step[pixel] = 1e-5
        with torch.no_grad():
            slope = (tiny(images + step) - tiny(images - step))[pixel[0], 2] / 2e-5
        assert gradient[pixel] == pytest.approx(float(slope), rel=1e-5, abs=1e-9)


def test_a_blur_wider_than_the_map_is_its_mean() -> None:
    maps = torch.rand(2, 9, 12, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    expected = maps.mean((1, 2), keepdim=True).expand_as(maps)
    for sigma in (200.0, 1e6, 1e300):
        torch.testing.assert_close(gaussian_blur(maps, sigma), expected, rtol=1e-3, atol=0)
