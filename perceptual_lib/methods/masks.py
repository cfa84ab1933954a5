"""Methods that hide parts of the image: RISE by chance, extremal perturbation by search."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.passes import with_folds
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.methods.registry import explainer

GRID = 32  # places of a mask's parameter along the shorter side: one in 7 pixels of 224
TEMPERATURE = 1 / 20  # of the soft maximum
LEVELS = 8  # of blur, between which the image is interpolated
AREA_WEIGHT = 300.0  # of the area's penalty at the first step
AREA_GROWTH = 16.4  # what that weight is multiplied by over the whole run: 1.0035 a step over TorchRay's 800
LEARNING_RATE, MOMENTUM = 0.01, 0.9  # of steps along a running mean of the gradients


@explainer("rise", source="Petsiuk et al. 2018", cost="{count} forward")
def rise(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    count: int = 8000,
    cells: int = 7,
    share: float = 0.5,
    seed: int = 0,
    batch_size: int | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    """The mean of random masks, each weighted by the class's probability when the rest of the image is grey.

    Every image of a batch sees the same masks. They are made as they are needed: memory does not grow with `count`.

    Args:
        network, images, targets: module to logits, (B, C, H, W), (B,). What is hidden is 0, in normalized space the
            mean colour.
        count: random masks.
        cells: their cells along each side.
        share: the probability that a cell is visible; the map is divided by it, so that it does not depend on it on
            average.
        seed: of the masks.
        batch_size: masked images that the network gets at once; the map does not depend on it. None for what suits the
            device, see `full_batch`.
        masks: (M, H, W) to use in place of random ones, as those of another implementation. `count`, `cells` and
            `seed` are then without effect; `share` still divides the map.

    Returns:
        (B, H, W): sum over masks of probability times mask, divided by their number times `share`.
    """
    batch_size = full_batch(images.device) if batch_size is None else batch_size
    _check_rise(images, count, cells, share, batch_size, masks)
    network = with_folds(network, images, backward=False)
    blocks = random_masks(images, count, cells, share, seed, batch_size) if masks is None else masks.split(batch_size)
    maps = torch.zeros_like(images[:, 0])
    for block in blocks:
        block = block.to(images)  # (n, H, W)
        for one, target, map in zip(images, targets, maps, strict=True):  # full batches, whatever the number of images
            scores = network(one * block[:, None]).softmax(1, images.dtype)[:, target]  # (n,)
            with torch.autocast(images.device.type, enabled=False):
                map += torch.tensordot(scores, block, 1)
    return maps / ((count if masks is None else len(masks)) * share)


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


@explainer("extremal_perturbation", source="Fong, Patrick and Vedaldi 2019", cost="{steps} forward, {steps} backward")
def extremal_perturbation(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    areas: Sequence[float] = (0.1,),
    steps: int = 800,
    radius: float = 0.09,
    blur: float = 0.09,
    smooth: float = 0.09,
    flip: bool = True,
) -> Tensor:
    """The smooth mask of a given area that keeps the class's logit largest, the rest of the image blurred.

    Written from the paper (ICCV 2019, arXiv 1910.08485). What it leaves open (the schedule of the area's penalty, the
    momentum, the margin on which area counts, mirroring) is as TorchRay was observed to do it. Their lengths are pixels
    of an image of 224; here they are shares of the shorter side, so that an image has the same explanation at any size.

    Args:
        network, images, targets: module to logits, (B, C, H, W), (B,).
        areas: shares to keep, in (0, 1), of the image with a margin of one radius around it: 0.1 is about 0.14 of the
            image alone. Each is searched for by itself; the masks are summed.
        steps: of gradient descent, for each area; the penalty grows as much over few as over many.
        radius: of the smallest spot that a mask can show, as a share of the image's shorter side.
        blur: standard deviation where the mask is 0, as a share of the shorter side.
        smooth: standard deviation of the Gaussian blur of the masks found, which the pointing game is played with, as
            a share of the shorter side; 0 for the masks themselves.
        flip: show the network the mirrored image in every other step.

    Returns:
        (B, H, W), from 0 to the number of areas.
    """
    _check_extremal(areas, steps, radius, blur, smooth)
    side = min(images.shape[2:])
    levels = blur_levels(images, blur * side)
    network = with_folds(network, images)

    def response(step: int, mask: Tensor) -> Tensor:
        shown = between_levels(levels, mask)
        return network(shown.flip(3) if flip and step % 2 == 0 else shown).gather(1, targets[:, None])[:, 0]

    masks = sum(search_mask(response, images, area, steps, radius * side) for area in areas)
    return gaussian_blur(masks, smooth * side)


def search_mask(
    response: Callable[[int, Tensor], Tensor], images: Tensor, area: float, steps: int, radius: float
) -> Tensor:
    """Gradient ascent on the response of images under masks of an area.

    Args:
        response: from step and masks (B, H, W) to the class's logits (B,).
        images: (B, C, H, W), for their size.
        area: share of the canvas of `SmoothMask` that the mask should keep, in (0, 1).
        steps: of SGD with momentum.
        radius: in pixels, as for `SmoothMask`.

    Returns:
        Masks (B, H, W) in [0, 1]. One image's does not depend on another's: nothing below mixes them.
    """
    generate = SmoothMask(images, radius)
    # From the whole image: at the start the network sees the class that it is asked for, and its gradient means it.
    parameter = images.new_ones(len(images), *generate.grid)
    velocity = None
    for step in range(steps):
        with torch.enable_grad():
            parameter.requires_grad_()
            canvas = generate(parameter)
            off = (canvas - wanted_values(canvas.detach(), area)).square().mean((1, 2))  # R_a per place: (B,)
            # Ever harder: first the mask finds its place, then it gets its area.
            loss = AREA_WEIGHT * AREA_GROWTH ** (step / steps) * off - response(step, generate.on_image(canvas))  # (B,)
            (gradient,) = torch.autograd.grad(loss.sum(), parameter)
        velocity = gradient if velocity is None else gradient.lerp(velocity, MOMENTUM)
        parameter = (parameter.detach() - LEARNING_RATE * velocity).clamp(0, 1)
    return generate.on_image(generate(parameter))


class SmoothMask:
    """Masks made of soft discs: the smooth max-convolution of a coarse grid with a radial kernel.

    m(u) = smax_v k(u - v) p(v), where smax f = sum f exp(f / T) / sum exp(f / T). The maximum, where a convolution
    would have the mean, lets a mask reach both 0 and 1 and yet change no faster than the kernel. k is 1 to half the
    radius, with a Gaussian flank of standard deviation radius / 2 from there.

    Masks are computed where the grid's points are and enlarged bilinearly, at a fiftieth of the cost of every pixel.
    They live on a canvas, the grid with a margin of one radius around it: there a disc centred on the image's border
    counts almost whole, and places at the border are no cheaper than others.

    Args:
        images: (B, C, H, W), for their size.
        radius: of the smallest spot, in pixels.

    Attributes:
        grid: (rows, columns) of the parameter, about `GRID` along the image's shorter side.
        margin: rows and columns of the canvas on each side of the image.
    """

    def __init__(self, images: Tensor, radius: float) -> None:
        self.size = tuple(images.shape[2:])
        stride = max(1, round(min(self.size) / GRID))
        self.grid = tuple(max(1, round(length / stride)) for length in self.size)
        self.margin = round(radius / stride)
        self.reach = math.ceil(1.5 * radius / stride)  # k is at most exp(-2) from there on, which the maximum forgets
        offset = torch.arange(-self.reach, self.reach + 1, dtype=images.dtype, device=images.device) * stride / radius
        distance = torch.hypot(offset[:, None], offset)
        self.kernel = (-2 * (distance - 0.5).clamp(min=0).square()).exp().flatten()[:, None]  # (window, 1)

    def __call__(self, parameter: Tensor) -> Tensor:
        """Canvas (B, rows + 2 margin, columns + 2 margin) in [0, 1] of parameters (B, rows, columns) in [0, 1]."""
        near = F.unfold(parameter[:, None], 2 * self.reach + 1, padding=self.reach + self.margin)
        spots = near * self.kernel  # (B, window, places of the canvas)
        mask = ((spots / TEMPERATURE).softmax(1) * spots).sum(1)
        return mask.unflatten(1, tuple(length + 2 * self.margin for length in self.grid))

    def on_image(self, canvas: Tensor) -> Tensor:
        """Masks (B, H, W): the canvas without its margin, at the image's size."""
        rows, columns = (slice(self.margin, self.margin + length) for length in self.grid)
        return F.interpolate(canvas[:, None, rows, columns], self.size, mode="bilinear", align_corners=False)[:, 0]


def blur_levels(images: Tensor, sigma: float) -> Tensor:
    """(LEVELS, B, C, H, W): the images from blurred with `sigma` pixels to sharp, in even steps of sigma."""
    return torch.stack([gaussian_blur(images, sigma * (1 - level / (LEVELS - 1))) for level in range(LEVELS)])


def between_levels(levels: Tensor, mask: Tensor) -> Tensor:
    """Images (B, C, H, W), each pixel blurred as far as the mask (B, H, W) is from 1, between its two levels."""
    index = torch.arange(len(levels), dtype=mask.dtype, device=mask.device).view(-1, 1, 1, 1)
    weights = (1 - (mask * (len(levels) - 1) - index).abs()).clamp(min=0)  # (LEVELS, B, H, W), two are not 0
    return (weights[:, :, None] * levels).sum(0)


def wanted_values(masks: Tensor, area: float) -> Tensor:
    """What the area's penalty |vecsort(m) - r_a|^2 pulls each pixel to, (B, H, W): 1 for the largest, 0 for the rest.

    r_a is (1 - area) H W zeros and then ones. Pixels of the same value share what is left for them: the order in which
    sorting happens to put them is that of the rows, and would pull a uniform mask to the bottom of the image.
    """
    values = masks.flatten(1)
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)  # how many pixels are smaller, (B, H W)
    up_to = torch.searchsorted(ordered, values, right=True)  # and how many not larger
    zeros = round((1 - area) * values.shape[1])
    ones = (up_to - zeros).clamp(min=0) - (below - zeros).clamp(min=0)
    return (ones / (up_to - below)).to(masks).view_as(masks)


def _check_rise(images: Tensor, count: int, cells: int, share: float, batch_size: int, masks: Tensor | None) -> None:
    if min(count, cells, batch_size) < 1:
        raise InputError("count, cells and batch_size must be at least 1.")
    if not 0 < share <= 1:
        raise InputError(f"share is a probability above 0, at most 1, not {share}.")
    if masks is not None and (masks.ndim != 3 or not len(masks) or masks.shape[1:] != images.shape[2:]):
        raise InputError(f"masks must be (M, {images.shape[2]}, {images.shape[3]}), not {tuple(masks.shape)}.")


def _check_extremal(areas: Sequence[float], steps: int, radius: float, blur: float, smooth: float) -> None:
    if not areas or not all(0 < area < 1 for area in areas):
        raise InputError(f"areas are shares of the image between 0 and 1, at least one; not {areas}.")
    if steps < 1:
        raise InputError(f"steps is {steps}; give a positive number.")
    if not (0 < radius <= 1 and 0 <= blur <= 1 and 0 <= smooth <= 1):
        raise InputError("radius, blur and smooth are shares of the image's side, at most 1; radius is above 0.")
