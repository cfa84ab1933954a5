"""Insertion and deletion: against a plain loop over one image, a linear model by hand, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from stand_ins import assert_same_state, model_state
from torch import Tensor, nn

from benchmarks.peers import plain_games
from perceptual_lib import InputError, explain, load_photographs
from perceptual_lib.evaluation.insertion_deletion import protocol
from perceptual_lib.evaluation.insertion_deletion.protocol import (
    FILLINGS,
    METRICS,
    Filling,
    auc,
    impulse_blur,
    insertion_deletion,
    ranks,
)

INSERTION, DELETION = map(METRICS.index, ("insertion", "deletion"))


class Linear(nn.Module):
    """Two classes, logits (sum of weights times image, 0), and a count of what it is asked."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)  # (H, W)
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        score = (self.weights * images).sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def square_kernel(length: int, sigma: float) -> np.ndarray:
    impulse = np.zeros((length, length))
    impulse[length // 2, length // 2] = 1
    return gaussian_filter(impulse, sigma)


@pytest.mark.parametrize("step", [10, 12, 143, 144, 1000])
def test_same_as_a_plain_loop(tiny: nn.Module, images: Tensor, step: int) -> None:
    tiny.eval()
    maps = noise(4, 12, 12).round(decimals=1)  # with ties
    maps[0] = 1 + 1e-9 * maps[0]  # an order that single precision does not know
    targets = torch.tensor([3, 0, 4, 3])
    sizes: list[int] = []
    handle = tiny.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    curves, areas = insertion_deletion(tiny, images, maps, targets, step=step, batch_size=5)
    handle.remove()
    assert min(sizes) > 0
    assert curves.shape == (4, 2, math.ceil(144 / step) + 1)
    for row, target in enumerate(targets.tolist()):
        both = plain_games(tiny, images[row : row + 1], maps[row], target, step)
        for game, expected in zip((INSERTION, DELETION), both, strict=True):
            assert curves[row, game].tolist() == pytest.approx(expected, abs=1e-9)
            changed = [*range(0, 144, step), 144]
            assert areas[row, game].item() == pytest.approx(np.trapezoid(expected, changed) / 144, abs=1e-9)
            if 144 % step == 0:
                assert areas[row, game].item() == pytest.approx(auc(curves)[row, game].item(), abs=1e-12)


def test_two_pixels_by_hand() -> None:
    """Logit ln 3 for the first pixel and ln 2 for the second: odds multiply."""
    network = Linear(torch.tensor([[3.0, 2.0]]).double().log())
    image = torch.ones(1, 1, 1, 2, dtype=torch.double)
    kernel = square_kernel(11, 5)
    share = kernel[5, 5] + kernel[5, 6]  # of 1 that a blurred pixel keeps: both see themselves and one neighbour
    for saliency, kept in (([[1.0, 0.0]], 2), ([[0.0, 1.0]], 3)):
        (curves,), (areas,) = insertion_deletion(network, image, torch.tensor([saliency]), 0, step=1)
        assert curves[DELETION].tolist() == pytest.approx([6 / 7, kept / (kept + 1), 1 / 2])
        odds = [6**share, 6 / kept * kept**share, 6]
        assert curves[INSERTION].tolist() == pytest.approx([each / (each + 1) for each in odds])
        assert areas[DELETION].item() == pytest.approx((3 / 7 + kept / (kept + 1) + 1 / 4) / 2)


def test_no_map_beats_the_contributions_to_a_linear_score() -> None:
    network, images = Linear(noise(8, 9)), noise(3, 1, 8, 9, seed=1)
    for game, change in ((DELETION, images), (INSERTION, images - impulse_blur(images, 5))):
        best = (network.weights * change[:, 0]).detach()
        others = torch.stack([-best, *noise(20, 3, 8, 9, seed=2)], 1)
        curves = insertion_deletion(network, images, torch.cat([best[:, None], others], 1), 0, step=5).curves[
            :, :, game
        ]
        sign = 1 if game == INSERTION else -1
        assert (sign * (curves[:, :1] - curves[:, 1:]) > -1e-12).all()
        assert (sign * (auc(curves)[:, 0] - auc(curves)[:, 1]) > 0.1).all()


def test_several_maps_of_an_image(tiny: nn.Module, images: Tensor) -> None:
    maps = noise(4, 2, 3, 12, 12)
    curves = insertion_deletion(tiny, images, maps, step=30).curves
    assert curves.shape == (4, 2, 3, 2, 6)
    for i, j in np.ndindex(2, 3):
        alone = insertion_deletion(tiny, images, maps[:, i, j], step=30).curves
        assert torch.allclose(curves[:, i, j], alone, rtol=0, atol=1e-12)


def test_no_more_passes_than_needed_in_full_batches() -> None:
    network = Linear(noise(8, 9))
    explain(network, noise(3, 1, 8, 9), method="center")  # the first call of all looks at the network
    network.batches.clear()
    insertion_deletion(network, noise(3, 1, 8, 9), noise(3, 2, 8, 9), step=10, batch_size=16)
    ends, between = 3 + 3 + 1, 3 * 2 * 2 * 7  # 72 pixels in 8 steps, of which 7 end between the end points
    assert network.batches == [ends, *[16] * (between // 16), between % 16]


@pytest.mark.parametrize("filling", [*FILLINGS, noise(4, 3, 12, 12), noise(1, 3, 12, 12), torch.neg])
def test_any_filling_is_where_a_game_begins_and_ends(tiny: nn.Module, images: Tensor, filling: Filling) -> None:
    tiny.eval()
    maps, target = noise(4, 12, 12), torch.tensor([3, 0, 4, 3])
    curves = insertion_deletion(tiny, images, maps, target, step=30, start=filling, filling=filling).curves
    of_image = {"mean": images.mean((2, 3), keepdim=True).expand_as(images), "grey": torch.zeros_like(images)}
    if isinstance(filling, str):
        pictures = of_image.get(filling, FILLINGS[filling](images))
    else:
        pictures = filling if isinstance(filling, Tensor) else -images
    with torch.no_grad():
        end = tiny(pictures.expand_as(images)).softmax(1)[torch.arange(4), target]
        half = torch.where((ranks(maps) < 60)[:, None], pictures, images)
        middle = tiny(half).softmax(1)[torch.arange(4), target]
    assert torch.allclose(curves[:, DELETION, -1], end) and torch.allclose(curves[:, INSERTION, 0], end)
    assert torch.allclose(curves[:, DELETION, 2], middle)


def test_targets(tiny: nn.Module, images: Tensor) -> None:
    maps = noise(4, 12, 12)
    with torch.no_grad():
        scores = tiny.eval()(images).softmax(1)
    curves = insertion_deletion(tiny, images, maps, step=50).curves
    assert torch.allclose(curves[:, DELETION, 0], scores.amax(1))
    assert torch.equal(insertion_deletion(tiny, images, maps, scores.argmax(1), step=50).curves, curves)
    assert torch.allclose(insertion_deletion(tiny, images, maps, 2, step=50).curves[:, DELETION, 0], scores[:, 2])


@pytest.mark.parametrize("training", [False, True])
def test_the_network_stays_as_it_was(tiny: nn.Module, images: Tensor, training: bool) -> None:
    tiny.train(training)
    before = model_state(tiny)
    curves = insertion_deletion(tiny, images.requires_grad_(), noise(4, 12, 12).requires_grad_(), step=50).curves
    assert not curves.requires_grad and images.grad is None
    with pytest.raises(InputError, match="out of range"):
        insertion_deletion(tiny, images, noise(4, 12, 12), 5)
    assert_same_state(before, model_state(tiny))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(3, 12, 12)}, r"\(B, C, H, W\)"),
        ({"images": torch.zeros(4, 3, 12, 12)}, "weights are torch.float64"),
        ({"maps": torch.zeros(4, 12, 11)}, r"tensor \(4, \.\.\., 12, 12\), not torch.float32 \(4, 12, 11\)"),
        ({"maps": torch.zeros(3, 12, 12)}, "not"),
        ({"maps": torch.zeros(12, 12)}, "not"),
        ({"maps": np.zeros((4, 12, 12))}, "not ndarray"),
        ({"maps": torch.zeros(4, 0, 12, 12)}, "at least one"),
        ({"maps": torch.full((4, 12, 12), math.nan)}, "finite"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, "targets"),
        ({"targets": -1}, "out of range"),
        ({"step": 0}, "at least 1"),
        ({"filling": "gray"}, "no filling 'gray'.*grey"),
        ({"start": torch.zeros(2, 3, 12, 12)}, r"a filling must be pictures \(4, 3, 12, 12\)"),
        ({"filling": lambda images: images[0]}, r"not torch.float64 \(3, 12, 12\)"),
        ({"filling": None}, "a filling must be pictures .* not NoneType"),
        ({"start": lambda images: images / 0}, "a filling must be finite"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_bad_input(tiny: nn.Module, images: Tensor, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        insertion_deletion(tiny, **{"images": images, "maps": torch.zeros(4, 12, 12)} | change)
    assert len(str(error.value).splitlines()) == 1


def test_a_step_of_numpy(tiny: nn.Module, images: Tensor) -> None:
    assert insertion_deletion(tiny, images, noise(4, 12, 12), step=np.int64(72)).curves.shape == (4, 2, 3)


def test_auc() -> None:
    curves = np.array([[1.0, 0.5, 0.5, 0.0], [1, 1, 1, 1]])
    assert auc(curves).tolist() == pytest.approx([0.5, 1])
    assert auc(torch.from_numpy(curves)).tolist() == pytest.approx([0.5, 1])
    with pytest.raises(InputError, match="two scores"):
        auc(curves[:, :1])


def test_the_kernel_of_rise_is_nearly_a_box() -> None:
    impulse = torch.zeros(31, 31, dtype=torch.double)
    impulse[15, 15] = 1
    kernel = impulse_blur(impulse, 5)
    assert kernel[10:21, 10:21].sum().item() == pytest.approx(1) and kernel.count_nonzero() == 11 * 11
    assert round(kernel[10:21, 10:21].min().item(), 4) == 0.0077 and round(kernel.max().item(), 4) == 0.0088


@pytest.mark.parametrize(("sigma", "length"), [(0.5, 11), (1, 11), (2.5, 11), (5, 11), (5.5, 13), (6, 13), (30, 61)])
def test_blur_of_maps(sigma: float, length: int) -> None:
    maps = noise(2, 20, 33)
    expected = [convolve2d(one, square_kernel(length, sigma), mode="full") for one in maps.numpy()]
    half = length // 2
    assert impulse_blur(maps, sigma).numpy() == pytest.approx(np.stack(expected)[:, half:-half, half:-half], abs=1e-12)


def test_no_blur_and_bad_blur() -> None:
    maps = noise(1, 4, 4)
    assert impulse_blur(maps, 0) is maps
    for sigma in (-1, math.nan, math.inf):
        with pytest.raises(InputError, match="sigma"):
            impulse_blur(maps, sigma)
    with pytest.raises(InputError, match="floating point"):
        impulse_blur(maps.long(), 5)


def test_shard(embedded: nn.Module) -> None:
    pictures = [photograph.open() for photograph in load_photographs(limit=2)]
    maps = noise(2, 224, 224).half()
    needed = {"guided": maps.numpy(), "targets": np.array([3, 22])}
    found = protocol.compute(
        embedded, pictures, needed=needed, array="guided", sigmas=[0, 2.5], step=20_000, filling="grey"
    )
    curves = np.stack([found[game] for game in METRICS], 2)
    assert curves.shape == (2, 2, 2, 4) and curves.dtype == np.float32
    saliency = torch.from_numpy(convolve2d(maps[1].double().numpy(), square_kernel(11, 2.5), mode="same"))
    both = plain_games(embedded, embedded.preprocess(pictures[1:]), saliency, 22, 20_000)
    for game, expected in zip((INSERTION, DELETION), both, strict=True):
        assert curves[1, 1, game].tolist() == pytest.approx(expected, abs=1.5e-4)  # of four decimals
