"""Extremal perturbations (Fong, Patrick and Vedaldi 2019): search for the part of the image that shows the class."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.calling import with_gradient
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.first_look import say_what_is_flat
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.methods.registry import explainer

GRID = 32  # places of a mask's parameter along the shorter side: one in 7 pixels of 224
TEMPERATURE = 1 / 20  # of the soft maximum
LEVELS = 8  # of blur, between which the image is interpolated
AREA_WEIGHT = 300.0  # of the area's penalty at the first step
AREA_GROWTH = 16.4  # what that weight is multiplied by over the whole run: 1.0035 a step over TorchRay's 800
LEARNING_RATE, MOMENTUM = 0.01, 0.9  # of steps along a running mean of the gradients


@explainer(
    "extremal_perturbation",
    source="Fong, Patrick and Vedaldi 2019",
    passes=lambda settings: (settings["steps"] * len(settings["areas"]) + 1,) * 2,
)
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
) -> Tensor:
    """The smooth mask of a given area that keeps the class's logit largest, the rest of the image blurred.

    Written from the paper (ICCV 2019, arXiv 1910.08485). What it leaves open (the schedule of the area's penalty, the
    momentum, the margin on which area counts, the mirrored image in every other step) is done as TorchRay was observed
    to do it. Lengths there are pixels of an image of 224; here they are shares of the shorter side.

    Args:
        areas: shares to keep, in (0, 1), of the image with a margin of one radius around it: 0.1 is about 0.14 of the
            image alone. Each area has its own search; the masks are summed.
        steps: steps of gradient descent for each area; the penalty grows by the same factor over few as over many.
        radius: of the smallest spot that a mask can show, as a share of the image's shorter side.
        blur: standard deviation of the image's blur where the mask is 0, as a share of the shorter side.
        smooth: the same for a blur of the masks found, with which the pointing game is played; 0 for no blur.

    Returns:
        (B, H, W), from 0 to the number of areas.
    """
    if not areas or not all(0 < area < 1 for area in areas):
        raise InputError(f"areas are shares of the image between 0 and 1, at least one; not {areas}.")
    if steps < 1:
        raise InputError(f"steps is at least 1, not {steps}.")
    if not (0 < radius <= 1 and 0 <= blur <= 1 and 0 <= smooth <= 1):
        raise InputError("radius, blur and smooth are shares of the image's side, at most 1; radius is above 0.")
    side = min(images.shape[2:])
    passes, levels, generate = Passes(network), blur_levels(images, blur * side), SmoothMask(images, radius * side)
    say_what_is_flat(passes.gradient(images, targets), "the gradient of the class's score")

    def loss(area: float, mirrored: bool, parameter: Tensor, growth: Tensor, *given: Tensor) -> Tensor:
        """The loss of each image, (B,)."""
        levels, kernel, targets = given
        canvas = generate(parameter, kernel)
        off = (canvas - wanted_values(canvas.detach(), area)).square().mean((1, 2))  # R_a per place
        shown = between_levels(levels, generate.on_image(canvas))
        logits = passes(shown.flip(3) if mirrored else shown)
        return AREA_WEIGHT * growth * off - logits.gather(1, targets[:, None])[:, 0]

    def gradient(area: float, parameter: Tensor, step: int) -> Tensor:
        # First the mask finds its place, then it gets its area.
        growth = images.new_full((), math.pow(AREA_GROWTH, step / steps))
        mirrored = step % 2 == 0
        name = "extremal perturbation", area, mirrored, generate.margin, generate.reach
        function = partial(with_gradient, partial(loss, area, mirrored))
        return passes.kept(images).record(name, function, parameter, growth, levels, generate.kernel, targets)[1]

    # Start from the whole image, in which the network sees the class that it is asked for: its gradient is about this.
    whole = images.new_ones(len(images), *generate.grid)
    masks = [generate.on_image(generate(descend(partial(gradient, area), whole, steps))) for area in areas]
    return gaussian_blur(torch.stack(masks).sum(0), smooth * side)


def descend(gradient: Callable[[Tensor, int], Tensor], parameter: Tensor, steps: int) -> Tensor:
    """The parameter (B, ...) after steps with momentum against `gradient(parameter, step)`, kept in [0, 1]."""
    velocity: Tensor | None = None
    for step in range(steps):
        latest = gradient(parameter, step)
        velocity = latest if velocity is None else latest.lerp(velocity, MOMENTUM)
        parameter = (parameter - LEARNING_RATE * velocity).clamp(0, 1)
    return parameter


class SmoothMask:
    """Masks made of soft discs: the smooth max-convolution of a coarse grid with a radial kernel.

    m(u) = smax_v k(u - v) p(v), where smax f = sum f exp(f / T) / sum exp(f / T). The maximum, in place of
    the mean of a convolution, lets a mask reach both 0 and 1 and yet change no faster than the kernel. k is 1 up to
    half the radius (in pixels), and falls from there as a Gaussian of standard deviation radius / 2.

    Masks are computed at the grid's points and enlarged bilinearly, at a fiftieth of the cost of all pixels. They live
    on a canvas, which is the grid with a margin of one radius. There a disc on the image's border counts almost whole,
    so that places at the border are no cheaper than others.
    """

    def __init__(self, images: Tensor, radius: float) -> None:
        self.size = tuple(images.shape[2:])
        stride = max(1, round(min(self.size) / GRID))
        self.grid = tuple(max(1, round(length / stride)) for length in self.size)  # (rows, columns) of the parameter
        self.margin = round(radius / stride)  # places of the canvas on each side of the image
        self.reach = math.ceil(1.5 * radius / stride)  # from there on k is at most exp(-2), which the maximum ignores
        offset = torch.arange(-self.reach, self.reach + 1, dtype=images.dtype, device=images.device) * stride / radius
        distance = torch.hypot(offset[:, None], offset)
        self.kernel = (-2 * (distance - 0.5).clamp(min=0).square()).exp().flatten()[:, None]  # (window, 1)

    def __call__(self, parameter: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Canvas (B, rows + 2 margin, columns + 2 margin) in [0, 1] of parameters (B, rows, columns) in [0, 1]. The
        kernel may be given, as a recorded function must get all tensors that it reads."""
        near = F.unfold(parameter[:, None], 2 * self.reach + 1, padding=self.reach + self.margin)
        spots = near * (self.kernel if kernel is None else kernel)  # (B, window, places of the canvas)
        mask = ((spots / TEMPERATURE).softmax(1) * spots).sum(1)
        return mask.view(-1, *(length + 2 * self.margin for length in self.grid))

    def on_image(self, canvas: Tensor) -> Tensor:
        """Masks (B, H, W): the canvas without its margin, at the image's size."""
        rows, columns = (slice(self.margin, self.margin + length) for length in self.grid)
        return F.interpolate(canvas[:, None, rows, columns], self.size, mode="bilinear", align_corners=False)[:, 0]


def blur_levels(images: Tensor, sigma: float) -> Tensor:
    """(LEVELS, B, C, H, W): the images from blurred with `sigma` pixels to sharp, in even steps of sigma."""
    return torch.stack([gaussian_blur(images, sigma * (1 - level / (LEVELS - 1))) for level in range(LEVELS)])


def between_levels(levels: Tensor, mask: Tensor) -> Tensor:
    """Images (B, C, H, W), blurred at each pixel as far as the mask (B, H, W) is from 1, between the nearest levels."""
    index = torch.arange(len(levels), dtype=mask.dtype, device=mask.device).view(-1, 1, 1, 1)
    weights = (1 - (mask * (len(levels) - 1) - index).abs()).clamp(min=0)  # (LEVELS, B, H, W), at most two are not 0
    return (weights[:, :, None] * levels).sum(0)


def wanted_values(masks: Tensor, area: float) -> Tensor:
    """The values to which the area's penalty |vecsort(m) - r_a|^2 pulls pixels, (B, H, W): 1 the largest, 0 the rest.

    Pixels of equal value share the ones that are left for them. Sorting alone would rank them in the order of rows, and
    so pull a uniform mask to the bottom of the image.
    """
    values = masks.flatten(1)
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)  # how many pixels are smaller, (B, H W)
    up_to = torch.searchsorted(ordered, values, right=True)  # and how many not larger
    zeros = round((1 - area) * values.shape[1])
    ones = (up_to - zeros).clamp(min=0) - (below - zeros).clamp(min=0)
    return (ones / (up_to - below)).to(masks).view_as(masks)
