"""RISE against a plain loop, extremal perturbation against what it promises and against TorchRay's masks."""

import copy

import pytest
import torch
from scipy.stats import spearmanr
from stand_ins import TinyNetwork, assert_same_state, model_state
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from perceptual_lib import InputError, load_photographs
from perceptual_lib.methods import explain, masks
from perceptual_lib.methods.masks import SmoothMask, between_levels, blur_levels, random_masks, wanted_values

QUICK = {"rise": {"count": 20}, "extremal_perturbation": {"steps": 8}}


class Brightness(nn.Module):
    """The logit of class 1 is the brightness of what is bright inside a square of a 64-pixel image."""

    square = (slice(8, 28), slice(32, 52))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = images[:, :, *self.square].relu().mean((1, 2, 3))
        return torch.stack([torch.zeros_like(inside), 30 * inside], 1)


class Odds(nn.Module):
    """Logits to numbers whose sigmoid is the softmax."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1).logit()


class LargestTensor(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return made


@pytest.fixture(scope="module")
def photographs(embedded) -> torch.Tensor:
    return embedded.preprocess([photograph.path for photograph in load_photographs(limit=2)], size=(96, 96))


# Both.


@pytest.mark.parametrize("method", QUICK)
def test_maps_and_model(method: str, tiny: TinyNetwork, images: torch.Tensor) -> None:
    """Shape and range; the model as it was; neighbours without effect; the target with one; the same again."""
    before = model_state(tiny)
    maps = explain(tiny, images, torch.tensor([0, 1, 2, 3]), method=method, **QUICK[method])
    assert_same_state(before, model_state(tiny))
    assert maps.shape == (4, 12, 12) and maps.isfinite().all() and maps.min() >= 0 and not maps.requires_grad
    alone = explain(tiny, images[2:3], 2, method=method, **QUICK[method])
    assert torch.allclose(maps[2:3], alone, rtol=0, atol=1e-9)
    assert not torch.allclose(explain(tiny, images[2:3], 4, method=method, **QUICK[method]), alone, atol=1e-5)
    assert torch.equal(alone, explain(tiny, images[2:3], 2, method=method, **QUICK[method]))


def test_a_seed_fixes_it(tiny: TinyNetwork, images: torch.Tensor) -> None:
    one, again, other = (explain(tiny, images, 1, method="rise", seed=seed, **QUICK["rise"]) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("method", QUICK)
def test_oblong_images(method: str, tiny: TinyNetwork) -> None:
    maps = explain(tiny, torch.randn(2, 3, 40, 17, dtype=torch.double), 0, method=method, **QUICK[method])
    assert maps.shape == (2, 40, 17) and maps.isfinite().all()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rise", {"count": 0}, "at least 1"),
        ("rise", {"share": 0.0}, "probability"),
        ("rise", {"masks": torch.ones(3, 5, 5)}, r"\(M, 12, 12\)"),
        ("extremal_perturbation", {"areas": ()}, "areas"),
        ("extremal_perturbation", {"areas": (0.1, 1.0)}, "areas"),
        ("extremal_perturbation", {"steps": 0}, "steps"),
        ("extremal_perturbation", {"radius": 0.0}, "radius"),
    ],
)
def test_settings_out_of_range(method: str, settings: dict, message: str, tiny, images) -> None:
    with pytest.raises(InputError, match=message):
        explain(tiny, images, 0, method=method, **settings)


# RISE.


def test_rise_is_the_plain_loop(tiny: TinyNetwork, images: torch.Tensor) -> None:
    tiny.eval()
    masks = torch.cat(list(random_masks(images, 30, 5, 0.4, 7, 30)))
    expected = torch.zeros(4, 12, 12, dtype=torch.double)
    with torch.no_grad():
        for image in range(4):
            for mask in masks:
                expected[image] += tiny(images[image : image + 1] * mask).softmax(1)[0, 3] * mask
    expected /= 30 * 0.4
    for settings in ({"count": 30, "cells": 5, "seed": 7}, {"masks": masks}):
        for batch_size in (1, 7, 64):
            maps = explain(tiny, images, 3, method="rise", share=0.4, batch_size=batch_size, **settings)
            assert torch.allclose(maps, expected, atol=1e-12)


def test_masks_by_hand() -> None:
    """Each is a window of a grid enlarged bilinearly; together they show each pixel as often as they should."""
    images = torch.zeros(1, 3, 28, 21)
    masks = torch.cat(list(random_masks(images, 4000, 7, 0.3, 0, 64)))
    assert masks.shape == (4000, 28, 21) and masks.min() == 0 and masks.max() == 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.03  # also at the edges
    row = torch.rand(1, 7**2 + 2, generator=torch.Generator().manual_seed(5), dtype=torch.double)[0]
    grid = (row[2:] < 0.3).float().view(1, 1, 7, 7)
    large = F.interpolate(grid, (32, 24), mode="bilinear", align_corners=False)[0, 0]
    top, left = int(row[0] * 4), int(row[1] * 3)  # cells of 4 x 3 pixels
    assert torch.equal(next(random_masks(images, 1, 7, 0.3, 5, 64))[0], large[top : top + 28, left : left + 21])


def test_memory_does_not_grow_with_the_masks(tiny: TinyNetwork, images: torch.Tensor) -> None:
    largest = []
    for count in (16, 160):
        with LargestTensor() as tensors:
            explain(tiny, images, 0, method="rise", count=count, batch_size=8)
        largest.append(tensors.elements)
    assert largest[0] == largest[1] < 16 * 3 * 12 * 12


def test_full_batches(tiny: TinyNetwork, images: torch.Tensor) -> None:
    sizes = []
    handle = tiny.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    explain(tiny, images[:3], 0, method="rise", count=20, batch_size=8)
    handle.remove()
    assert sizes == [1, 1, 1, 8, 8, 8, 8, 8, 8, 4, 4, 4]  # one checks the network, two find what can be folded


def test_rise_is_torchrays(embedded, photographs: torch.Tensor) -> None:
    """TorchRay scores with the sigmoid of the logit, and does not divide by the share."""
    rise = pytest.importorskip("torchray.attribution.rise").rise
    masks = torch.cat(list(random_masks(photographs, 24, 7, 0.5, 0, 24)))
    network = nn.Sequential(copy.deepcopy(embedded), Odds()).eval()
    with torch.no_grad():
        theirs = rise(network, photographs[:1], num_masks=24, filter_masks=masks[:, None])[0, 242]
    ours = explain(embedded, photographs[:1], 242, method="rise", masks=masks)[0]
    assert torch.allclose(ours * 0.5, theirs, atol=1e-6)


# Extremal perturbation.


def test_what_the_area_pulls_to() -> None:
    mask = torch.tensor([[[0.1, 0.9], [0.3, 0.2]], [[0.5, 0.5], [0.5, 0.5]], [[0.7, 0.1], [0.7, 0.7]]])
    expected = [[[0, 1], [0, 0]], [[0.25, 0.25], [0.25, 0.25]], [[1 / 3, 0], [1 / 3, 1 / 3]]]
    assert torch.allclose(wanted_values(mask, 0.25), torch.tensor(expected))
    distinct = torch.rand(3, 20, 10)
    wanted = torch.zeros(200).index_fill(0, torch.arange(140, 200), 1)
    off = (distinct - wanted_values(distinct, 0.3)).square().sum((1, 2))
    assert torch.allclose(off, (distinct.flatten(1).sort(1).values - wanted).square().sum(1))  # |vecsort(m) - r_a|^2


def test_a_point_is_a_spot_of_the_radius() -> None:
    generate = SmoothMask(torch.zeros(1, 3, 224, 224), radius=21.0)
    assert generate.grid == (32, 32)
    parameter = torch.zeros(1, 32, 32)
    parameter[0, 16, 16] = 1
    mask = generate.on_image(generate(parameter))[0]
    assert mask.shape == (224, 224) and mask.min() == 0 and mask.max() > 0.99
    radius = ((mask > 0.5).sum() / torch.pi) ** 0.5
    assert 20 < radius < 25
    whole = generate.on_image(generate(torch.ones_like(parameter)))[0]
    assert torch.allclose(whole[100:120, 100:120], torch.ones(20, 20), atol=0.03)
    assert generate(torch.zeros_like(parameter)).abs().max() == 0


def test_a_spot_at_the_border_counts_almost_whole() -> None:
    generate = SmoothMask(torch.zeros(1, 3, 224, 160), radius=15.0)
    spots = torch.eye(45 * 32).view(-1, 45, 32)[[0, 16, 20 * 32 + 16]]  # at a corner, an edge, and inside
    corner, edge, inside = generate(spots).sum((1, 2))
    assert generate.grid == (45, 32) and corner > 0.95 * inside and edge > 0.95 * inside
    assert generate.on_image(generate(spots))[0].sum() < 0.5 * generate.on_image(generate(spots))[2].sum()


def test_between_the_levels_of_blur() -> None:
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    levels = blur_levels(images, 4.0)
    full = torch.ones(2, 16, 16, dtype=torch.double)
    assert torch.allclose(between_levels(levels, full), images)
    assert torch.allclose(between_levels(levels, 0 * full), levels[0])
    assert torch.allclose(between_levels(levels, full * 2.25 / 7), 0.75 * levels[2] + 0.25 * levels[3])


def test_the_mask_covers_what_the_network_sees() -> None:
    """A checkerboard, grey where it is blurred; only a square of it matters."""
    check = torch.arange(64) // 4 % 2
    images = (2.0 * (check[:, None] ^ check) - 1).expand(1, 3, 64, 64)
    area, canvas = 20 * 20 / 64**2, (38 / 32) ** 2  # the margin adds 3 places to the 32 of the grid on each side
    settings = {"areas": (area / canvas,), "steps": 200, "flip": False}
    mask = explain(Brightness(), images, 1, method="extremal_perturbation", smooth=0, **settings)[0]
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask[Brightness.square].mean() > 0.8
    assert mask.mean() == pytest.approx(area, abs=0.03)


def test_areas_are_summed(tiny: TinyNetwork, images: torch.Tensor) -> None:
    one, two, both = (
        explain(tiny, images, 0, method="extremal_perturbation", areas=areas, steps=5)
        for areas in ((0.1,), (0.3,), (0.1, 0.3))
    )
    assert torch.allclose(both, one + two)


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.1, 0.3])
def test_the_area_is_reached(area: float, embedded, photographs: torch.Tensor) -> None:
    canvas = (38 / 32) ** 2  # of the image's area; the mask lies inside the image
    settings = {"areas": (area,), "steps": 300, "smooth": 0}
    mask = explain(embedded, photographs[:1], None, method="extremal_perturbation", **settings)
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask.mean() == pytest.approx(area * canvas, abs=0.05)
    assert (mask > 0.5).float().mean() == pytest.approx(area * canvas, abs=0.05)


class Spots(nn.Module):
    """The logit of class 1 is the contrast seen through three soft windows, one of them negative: one summit."""

    def __init__(self, side: int) -> None:
        super().__init__()
        place = torch.arange(side) / side
        windows = ((1.0, 0.3, 0.35, 0.12), (0.7, 0.7, 0.7, 0.08), (-0.3, 0.25, 0.8, 0.1))
        weight = sum(
            height * torch.exp(-((place[:, None] - row) ** 2 + (place - column) ** 2) / (2 * width**2))
            for height, row, column, width in windows
        )
        self.weight = nn.Parameter(100 * weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = (images.square().mean(1) * self.weight).mean((1, 2))
        return torch.stack([torch.zeros_like(seen), seen], 1)


def both_masks(
    network: nn.Module, images: torch.Tensor, targets: list[int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our masks and TorchRay's of images of 112 pixels, (B, H, W) each. It counts in pixels and steps, we in shares."""
    theirs = pytest.importorskip("torchray.attribution.extremal_perturbation").extremal_perturbation
    expected = [
        theirs(copy.deepcopy(network), image[None], target, areas=[0.1], max_iter=steps, step=4, sigma=11)[0][0, 0]
        for image, target in zip(images, targets, strict=True)  # on a copy: it leaves parameters frozen
    ]
    monkeypatch.setattr(masks, "AREA_GROWTH", 1.0035**steps)
    settings = {"steps": steps, "radius": 11 / 112, "blur": 20 / 112, "smooth": 0}
    ours = explain(network, images, torch.tensor(targets), method="extremal_perturbation", **settings)
    return ours, torch.stack(expected)


def test_the_search_is_torchrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the way up is not in doubt the masks are the same, also halfway, but for the width of a grid's cell."""
    images = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    for steps in (20, 150):
        ours, theirs = both_masks(Spots(112).eval(), images, [1], steps, monkeypatch)
        assert spearmanr(ours.flatten(), theirs.flatten()).statistic > 0.95  # measured: 0.98 and more
        assert (ours - theirs).abs().mean() < 0.06  # 0.03 and less


@pytest.mark.slow
def test_ranks_places_as_torchray_does(embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network the search is touchy: the two may part on one photograph, so that the mean over several is asked.

    Measured: 0.85, and 0.83 and 0.86 with noise of 0.001 on the images; 0.75 on four other photographs. TorchRay with
    that noise against TorchRay without it: 0.85 on these. With the maps of other photographs: 0.5; with a penalty that
    grows from 30 to 3000, all area inside the image, and no mean of gradients: 0.33.
    """
    chosen = [load_photographs()[index] for index in (9, 10, 17, 18)]
    images = embedded.preprocess(chosen, size=(112, 112))
    targets = embedded(images).argmax(1).tolist()
    ours, theirs = both_masks(embedded, images, targets, 150, monkeypatch)
    ranks = [spearmanr(one.flatten(), other.flatten()).statistic for one, other in zip(ours, theirs, strict=True)]
    assert sum(ranks) / len(ranks) > 0.6
