"""RISE (Petsiuk, Das and Saenko 2018): hide random parts of the image, and see what is left of the class."""

import math
from collections.abc import Callable, Iterator
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from perceptual_lib.core.batches import full_batch, on
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.rest import CAUTION, rank_correlation
from perceptual_lib.core.settings import check_tolerance
from perceptual_lib.methods.registry import explainer

LOOK = 192  # masks between two checks whether maps are at rest: whole batches, both on a CPU and on a GPU
PARTS = 8  # groups of masks, which are compared with each other


@explainer("rise", title="RISE", source="Petsiuk et al. 2018", passes=lambda settings: (settings["samples"], 0))
def rise(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 8000,
    cells: int = 7,
    share: float = 0.5,
    scores: str = "softmax",
    seed: int = 0,
    batch_size: int | None = None,
    tolerance_map: float = 0.0,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """The mean of random masks, each weighted by the class's probability when the rest of the image is grey.

    Every image of a batch sees the same masks. Hidden pixels are 0, which is the mean colour in normalized space. An
    image that comes several times in a row, as for several classes, takes the passes of one.

    Args:
        samples: number of random masks.
        cells: number of a mask's cells along each side.
        share: the probability that a cell is visible; the map is divided by it.
        scores: "softmax", as the authors have it, or TorchRay's "sigmoid" of each logit alone. The outputs of a network
            that returns probabilities are used as they are with either.
        seed: of the masks.
        batch_size: masked images that the network gets at once; the map does not depend on it. None for what suits the
            device, see `full_batch`.
        tolerance_map: an image gets no more masks once its map is expected to be this close to the map of all samples,
            as 1 minus their rank correlation; 0 for never. This is checked after every 192 masks: how well maps of half
            of them agree with maps of the other half tells how much is chance.
        callback: `callback(masks, rows, maps)` is called at each of these checks, with the indices and the maps of the
            images that had all the masks so far. The last call with an image tells after how many its map was at rest.
    """
    if min(samples, cells) < 1:
        raise InputError(f"samples and cells are at least 1, not {samples} and {cells}.")
    batch_size = full_batch(network, images.device, batch_size)
    if not 0 < share <= 1:
        raise InputError(f"share is a probability above 0, at most 1, not {share}.")
    if scores not in ("softmax", "sigmoid"):
        raise InputError(f"scores is softmax or sigmoid, not {scores!r}.")
    check_tolerance(tolerance_map)
    if tolerance_map:
        batch_size = next(size for size in range(min(batch_size, LOOK), 0, -1) if LOOK % size == 0)
    passes = Passes(network)
    maps = torch.zeros_like(images[:, 0])
    parts = maps[:, None].repeat(1, PARTS if tolerance_map else 0, 1, 1)  # the same sums, each of every eighth mask
    rows, masks, classes = list(range(len(images))), 0, targets.tolist()  # lists, so that no step waits for a device
    pictures = [0, *(images[1:] != images[:-1]).flatten(1).any(1).cumsum(0).tolist()]  # equal neighbours share a number
    counts = [samples] * len(images)
    for block in random_masks(images, samples, cells, share, seed, batch_size):  # (n, H, W)
        part = (masks + torch.arange(len(block), device=block.device)) % PARTS
        masks += len(block)
        for _, alike in groupby(rows, pictures.__getitem__):  # full batches, whatever the number of images
            first, *others = alike
            logits = passes(images[first] * block[:, None])
            probabilities = class_probabilities(network, logits, images.dtype, scores)  # (n, K)
            with torch.autocast(images.device.type, enabled=False):
                for row in (first, *others):
                    weights = probabilities[:, classes[row]]  # (n,)
                    maps[row] += torch.tensordot(weights, block, 1)
                    if tolerance_map:
                        parts[row] += torch.tensordot(functional.one_hot(part, PARTS).T * weights, block, 1)
        if tolerance_map and masks % LOOK == 0:
            if callback:
                callback(masks, torch.tensor(rows), maps[rows] / (masks * share))
            still = CAUTION * expected_distance(parts[rows], masks / samples) <= tolerance_map
            resting = [row for row, rests in zip(rows, still.tolist(), strict=True) if rests]
            counts = [masks if row in resting else count for row, count in enumerate(counts)]
            rows = [row for row in rows if row not in resting]
            if not rows:
                break
    for map, count in zip(maps, counts, strict=True):
        map /= count * share
    return maps


def expected_distance(parts: Tensor, done: float) -> Tensor:
    """(B,), 1 minus the expected rank correlation between a map of a share `done` of the masks and the map of all.

    The map is the sum of parts (B, 8, H, W). Its halves of four parts each correlate by r, a mean over the seven most
    informative ways to halve it. So a share of 2 r / (1 + r) of the map's variance is not chance (Spearman 1910, Brown
    1910). The rest is chance, of which the map of all masks has the share `done`, too.
    """
    sign = parts.new_tensor([[1, 1], [1, -1]])
    ways = torch.kron(torch.kron(sign, sign), sign)[1:]  # (7, 8) of a Hadamard matrix: orthogonal, four of each sign
    chosen, others = (torch.tensordot(parts, (1 + each) / 2, ([1], [1])) for each in (ways, -ways))  # (B, H, W, 7)
    pairs = (each.movedim(3, 1).flatten(0, 1) for each in (chosen, others))
    halves = rank_correlation(*pairs).view(len(parts), -1).mean(1).clamp(min=0)
    certain = 2 * halves / (1 + halves)
    return 1 - (certain + done * (1 - certain)).sqrt()


def random_masks(images: Tensor, count: int, cells: int, share: float, seed: int, batch_size: int) -> Iterator[Tensor]:
    """RISE's masks (Petsiuk et al. 2018, Sec. 3.2) in blocks (n, H, W) of at most `batch_size`, values in [0, 1].

    A grid of cells, each 1 with probability `share`, is enlarged linearly, with reflected borders, to one cell more
    than the image. From this the image's size is cut out, beginning at a random place in the first cell.
    """
    lengths = images.shape[2:]
    sides = [math.ceil(length / cells) for length in lengths]  # of a cell, in pixels
    precise = torch.promote_types(images.dtype, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, count, batch_size):
        # One row of numbers for each mask: the same masks however they are divided into blocks.
        shape = min(batch_size, count - start), cells**2 + 2
        draws = torch.rand(shape, generator=generator, dtype=torch.double, device="cpu")
        grids = on(images.device, draws[:, 2:] < share).to(precise).view(-1, 1, cells, cells)
        rows, columns = (
            on(images.device, _places(length, (shift * side).long(), cells, side).to(precise))
            for length, shift, side in zip(lengths, draws[:, :2].T, sides, strict=True)
        )
        shape = len(grids), *lengths
        places = torch.stack([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], 3)  # (n, H, W, 2)
        yield functional.grid_sample(grids, places, align_corners=True)[:, 0].to(images.dtype)


def _places(length: int, shift: Tensor, cells: int, side: int) -> Tensor:
    """Where pixels lie among the cells, (n, length): -1 is the middle of the first cell, 1 of the last.

    The pixels are those from `shift` (n,) on, of a grid that is enlarged to (cells + 1) * `side` pixels.
    """
    last = max(1, cells - 1)
    places = (shift[:, None] + torch.arange(length, device="cpu") + 0.5) * cells / ((cells + 1) * side) - 0.5
    return 2 * (last - (last - places.abs()).abs()) / last - 1
