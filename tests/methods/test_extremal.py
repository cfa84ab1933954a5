"""Extremal perturbation against what it promises and against TorchRay's masks."""

import copy

import pytest
import torch
from scipy.stats import spearmanr
from stand_ins import TinyNetwork
from torch import nn

from perceptual_lib import InputError, explain, load_photographs
from perceptual_lib.methods import extremal
from perceptual_lib.methods.extremal import SmoothMask, between_levels, blur_levels, wanted_values


class Brightness(nn.Module):
    """The logit of class 1 is the brightness of what is bright in a part of a 64-pixel image, mirrored or not."""

    part = (slice(8, 28), slice(12, 52))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = images[:, :, *self.part].relu().mean((1, 2, 3))
        return torch.stack([torch.zeros_like(inside), 30 * inside], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"areas": ()}, "areas"), ({"areas": (0.1, 1.0)}, "areas"), ({"steps": 0}, "steps"), ({"radius": 0.0}, "radius")],
)
def test_settings_out_of_range(settings: dict, message: str, tiny, images) -> None:
    with pytest.raises(InputError, match=message):
        explain(tiny, images, 0, method="extremal_perturbation", **settings)


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
    """A checkerboard, grey where it is blurred; only a part of it matters."""
    check = torch.arange(64) // 4 % 2
    images = (2.0 * (check[:, None] ^ check) - 1).expand(1, 3, 64, 64)
    area, canvas = 20 * 40 / 64**2, (38 / 32) ** 2  # the margin adds 3 places to the 32 of the grid on each side
    settings = {"areas": (area / canvas,), "steps": 200}
    mask = explain(Brightness(), images, 1, method="extremal_perturbation", smooth=0, **settings)[0]
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask[Brightness.part].mean() > 0.8
    assert mask.mean() == pytest.approx(area, abs=0.03)


def test_areas_are_summed(tiny: TinyNetwork, images: torch.Tensor) -> None:
    one, two, both = (
        explain(tiny, images, 0, method="extremal_perturbation", areas=areas, steps=5)
        for areas in ((0.1,), (0.3,), (0.1, 0.3))
    )
    assert torch.allclose(both, one + two)


def test_the_area_is_reached(embedded) -> None:
    area, images = 0.1, embedded.preprocess(load_photographs(limit=1), size=(64, 64))
    canvas = (38 / 32) ** 2  # of the image's area; the mask lies inside the image
    settings = {"areas": (area,), "steps": 150, "smooth": 0}
    mask = explain(embedded, images, None, method="extremal_perturbation", **settings)
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
    monkeypatch.setattr(extremal, "AREA_GROWTH", 1.0035**steps)
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

    Measured: 0.83, and 0.27 with the maps of other photographs. After 60 steps 0.86, and 0.34 with those of others.
    After 150 steps 0.85, with noise of 0.001 on the images 0.83 and 0.86; TorchRay with that noise against TorchRay
    without it: 0.85.
    """
    chosen = [load_photographs()[index] for index in (9, 10, 17, 18)]
    images = embedded.preprocess(chosen, size=(112, 112))
    targets = embedded(images).argmax(1).tolist()
    ours, theirs = both_masks(embedded, images, targets, 40, monkeypatch)
    ranks = [spearmanr(one.flatten(), other.flatten()).statistic for one, other in zip(ours, theirs, strict=True)]
    assert sum(ranks) / len(ranks) > 0.7
