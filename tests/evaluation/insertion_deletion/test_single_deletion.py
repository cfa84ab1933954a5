"""Single deletion, and the two games with one filling."""

import pytest
import torch
from torch import Tensor, nn

from perceptual_lib.evaluation.insertion_deletion.protocol import insertion_deletion, single_deletion


class Corners(nn.Module):
    """Two classes, of which the first one's logit is a weighted sum of the means of a 12 x 12 image's 16 cells."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.reshape(1, 16, 1))

    def forward(self, images: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 3).flatten(1)[..., None]
        return torch.stack([(means * self.weights).sum((1, 2)), torch.zeros(len(images))], 1)


def test_single_deletion_by_hand() -> None:
    """On an image of ones grey takes from the logit just what a cell weighs: a map of the weights ranks the cells."""
    weights = torch.arange(16.0) / 100
    cells = weights.reshape(4, 4).repeat_interleave(3, 0).repeat_interleave(3, 1)
    swapped = cells.clone()
    swapped[:3, :6] = cells[:3, :6].flip(1)  # cells 0 and 1 the other way round
    maps = torch.stack([cells, -cells, swapped, torch.ones(12, 12)])[None]
    found = single_deletion(Corners(weights), torch.ones(1, 3, 12, 12), maps, 0)
    assert found.shape == (1, 4, 2)
    swap = 1 - 6 * 2 / (16 * 255)  # 1 - 6 sum of d^2 / (n (n^2 - 1)), two ranks being off by one
    assert found[0, :, 1].tolist() == pytest.approx([1, -1, swap, 0])


def test_with_one_filling_the_reversed_order_has_the_opposite_relevance(tiny: nn.Module, images: Tensor) -> None:
    """What is inserted last is deleted first: of a map without ties, insertion's curve is deletion's of its negative,
    backwards."""
    one = torch.randn(4, 12, 12, generator=torch.Generator().manual_seed(0))
    maps = torch.stack([one, -one], 1)
    played = insertion_deletion(tiny, images, maps, 0, step=12, filling="blurred")
    inserted, deleted = played.curves.unbind(2)
    assert torch.allclose(inserted[:, 0], deleted[:, 1].flip(-1), atol=1e-6)
    relevance = played.areas[..., 0] - played.areas[..., 1]
    assert torch.allclose(relevance[:, 0], -relevance[:, 1], atol=1e-6)
