"""RISE (Petsiuk, Das and Saenko 2018): hide parts of the image by chance, and see what is left of the class."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from perceptual_lib.core.batches import full_batch, on
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.rest import MARGIN, rank_correlation
from perceptual_lib.core.settings import check_tolerance
from perceptual_lib.methods.registry import explainer

LOOK = 192  # masks between two looks at whether maps are at rest: whole batches on a CPU and on a GPU
PARTS = 8  # of the masks, that are compared with each other


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
    tolerance_map: float = 0.0,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
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
        tolerance_map: an image gets no more masks when its map is not expected to be further than this, as 1 less their
            rank correlation, from the map of all samples; 0 for never. Looked at is after every 192 masks: how far maps
            of half of them agree with maps of the others says how much is chance.
        callback: `callback(masks, rows, maps)` at each of these looks, with the indices of the images that had all the
            masks so far and their maps: the last one with an image says after how many its map was at rest.
    """
    numbers = samples, cells, 1 if batch_size is None else batch_size
    if not all(isinstance(each, int) and each >= 1 for each in numbers):
        raise InputError("samples, cells and batch_size must be whole numbers, at least 1.")
    batch_size = full_batch(images.device, batch_size)
    if not 0 < share <= 1:
        raise InputError(f"share is a probability above 0, at most 1, not {share}.")
    check_tolerance(tolerance_map)
    if tolerance_map:
        batch_size = next(size for size in range(min(batch_size, LOOK), 0, -1) if LOOK % size == 0)
    passes = Passes(network)
    maps = torch.zeros_like(images[:, 0])
    parts = maps[:, None].repeat(1, PARTS if tolerance_map else 0, 1, 1)  # the same of every eighth mask
    rows, masks, classes = list(range(len(images))), 0, targets.tolist()  # nothing is asked of a device on the way
    counts = [samples] * len(images)
    for block in random_masks(images, samples, cells, share, seed, batch_size):  # (n, H, W)
        part = (masks + torch.arange(len(block), device=block.device)) % PARTS
        masks += len(block)
        for row in rows:  # full batches, whatever the number of images
            logits = passes(images[row] * block[:, None])
            scores = class_probabilities(network, logits, images.dtype)[:, classes[row]]  # (n,)
            with torch.autocast(images.device.type, enabled=False):
                maps[row] += torch.tensordot(scores, block, 1)
                if tolerance_map:
                    parts[row] += torch.tensordot(functional.one_hot(part, PARTS).T * scores, block, 1)
        if tolerance_map and masks % LOOK == 0:
            if callback:
                callback(masks, torch.tensor(rows), maps[rows] / (masks * share))
            still = MARGIN * expected_distance(parts[rows], masks / samples) <= tolerance_map
            resting = [row for row, rests in zip(rows, still.tolist(), strict=True) if rests]
            counts = [masks if row in resting else count for row, count in enumerate(counts)]
            rows = [row for row in rows if row not in resting]
            if not rows:
                break
    for map, count in zip(maps, counts, strict=True):
        map /= count * share
    return maps


def expected_distance(parts: Tensor, done: float) -> Tensor:
    """(B,), 1 less the rank correlation to expect between a map and that of all masks, of which it has a share `done`.

    The map is the sum of parts (B, 8, H, W). Two halves of it correlate by r, here a mean over the seven ways to choose
    four parts that tell most of all, so that 2 r / (1 + r) of their sum's variance is not chance (Spearman 1910, Brown
    1910). Of the chance, the map of all masks has the share `done`.
    """
    sign = parts.new_tensor([[1, 1], [1, -1]])
    ways = torch.kron(torch.kron(sign, sign), sign)[1:]  # (7, 8) of Hadamard's matrix: orthogonal, four of each sign
    chosen, others = (torch.tensordot(parts, (1 + each) / 2, ([1], [1])) for each in (ways, -ways))  # (B, H, W, 7)
    pairs = (each.movedim(3, 1).flatten(0, 1) for each in (chosen, others))
    halves = rank_correlation(*pairs).view(len(parts), -1).mean(1).clamp(min=0)
    certain = 2 * halves / (1 + halves)
    return 1 - (certain + done * (1 - certain)).sqrt()


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
        grids = on(images.device, draws[:, 2:] < share).to(images).view(-1, 1, cells, cells)
        large = functional.interpolate(grids, tuple((cells + 1) * sides), mode="bilinear", align_corners=False)[:, 0]
        top, left = on(images.device, (draws[:, :2] * sides).long()).T
        places = large.unfold(1, height, 1).unfold(2, width, 1)  # (n, tops, lefts, H, W), views
        yield places[torch.arange(len(places), device=images.device), top, left]
