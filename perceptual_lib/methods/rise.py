"""RISE (Petsiuk, Das and Saenko 2018): hide parts of the image by chance, and see what is left of the class."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.passes import Passes
from perceptual_lib.methods.registry import explainer


@explainer("rise", title="RISE", source="Petsiuk et al. 2018", passes=("samples", 0), renamed={"count": "samples"})
def rise(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 8000,
    cells: int = 7,
    share: float = 0.5,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The mean of random masks, each weighted by the class's probability when the rest of the image is grey.

    Every image of a batch sees the same masks. What is hidden is 0, in normalized space the mean colour.

    Args:
        samples: random masks.
        cells: their cells along each side.
        share: the probability that a cell is visible; the map is divided by it.
        seed: of the masks.
        batch_size: masked images that the network gets at once; the map does not depend on it. None for what suits the
            device, see `full_batch`.
    """
    numbers = samples, cells, 1 if batch_size is None else batch_size
    if not all(isinstance(each, int) and each >= 1 for each in numbers):
        raise InputError("samples, cells and batch_size must be whole numbers, at least 1.")
    batch_size = full_batch(images.device, batch_size)
    if not 0 < share <= 1:
        raise InputError(f"share is a probability above 0, at most 1, not {share}.")
    passes = Passes(network)
    maps = torch.zeros_like(images[:, 0])
    for block in random_masks(images, samples, cells, share, seed, batch_size):  # (n, H, W)
        for one, target, map in zip(images, targets, maps, strict=True):  # full batches, whatever the number of images
            scores = class_probabilities(network, passes(one * block[:, None]), images.dtype)[:, target]  # (n,)
            with torch.autocast(images.device.type, enabled=False):
                map += torch.tensordot(scores, block, 1)
    return maps / (samples * share)


def random_masks(images: Tensor, count: int, cells: int, share: float, seed: int, batch_size: int) -> Iterator[Tensor]:
    """RISE's masks (Petsiuk et al. 2018, Sec. 3.2) in blocks (n, H, W) of at most `batch_size`, values in [0, 1].

    A grid of cells, each 1 with probability `share`, is enlarged bilinearly to one cell more than the image on each
    side, and the image's size cut out of that at a random place within the first cell.
    """
    height, width = images.shape[2:]
    sides = torch.tensor([math.ceil(height / cells), math.ceil(width / cells)])  # of a cell, in pixels
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, count, batch_size):
        # One row of numbers for each mask: the same masks however they are divided into blocks.
        draws = torch.rand(min(batch_size, count - start), cells**2 + 2, generator=generator, dtype=torch.double)
        grids = (draws[:, 2:] < share).to(images).view(-1, 1, cells, cells)
        large = F.interpolate(grids, tuple((cells + 1) * sides), mode="bilinear", align_corners=False)[:, 0]
        corners = (draws[:, :2] * sides).long().tolist()
        yield torch.stack(
            [mask[top : top + height, left : left + width] for mask, (top, left) in zip(large, corners, strict=True)]
        )
