"""Insertion and deletion (paper Sec. 4.3): how soon does the class come, or go, with the most salient pixels?

The game of RISE's authors (Petsiuk et al. 2018). The pixels of an image change in the order of their saliency, some
rows' worth at a time, and the probability of the class is read after each step:

    insertion   from the blurred image to the image   a good map's curve rises early, with a large area below it
    deletion    from the image to mean grey           a good map's curve falls early, with a small area below it

And one that the paper does not play: single deletion (Hesse et al. 2024, here without fine-tuning). Each cell of a grid
is filled once, alone: does the map name the cells without which the class loses most?
"""

import itertools
import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from perceptual_lib.core.batches import full_batch, on
from perceptual_lib.core.calling import kind_of
from perceptual_lib.core.checks import check_logits, ready, resolve_targets
from perceptual_lib.core.errors import InputError, nearest
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.saliency import check_blur, gaussian_blur
from perceptual_lib.evaluation.statistics import spearman
from perceptual_lib.networks.classifier import Classifier

METRICS = ("insertion", "deletion")
"""What the second last dimension of curves stands for."""

Filling = str | Tensor | Callable[[Tensor], Tensor]
"""What stands in place of pixels that are taken away: a name of `FILLINGS`, pictures (B, C, H, W) or (1, C, H, W), or a
function of the images."""

FILLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "blurred": lambda images: impulse_blur(images, SIGMA),
    "grey": lambda images: torch.zeros_like(images[:1]),
    "mean": lambda images: images.mean((2, 3), keepdim=True).expand_as(images),
    "noise": lambda images: torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))[None].to(images),
}
"""Fillings by name: grey is 0 of the normalized space, mean an image's own, noise as varied as the network's inputs."""

SINGLE_FILLINGS = ("blurred", "grey")
"""The fillings of single deletion."""
CELLS = 4  # along each side of its grid

STEP = 8 * 224  # pixels: eight rows of a common input, as in RISE's own run over many images
SIGMA = 5.0  # of the blur that insertion starts from
DECIMALS = 4  # of a probability in tables: more would be rounding noise, and take most of the file

Curves = TypeVar("Curves", Tensor, np.ndarray)


class Played(NamedTuple):
    """The results of the METRICS."""

    curves: Tensor  #: (B, ..., 2, n), probabilities of the class after each step
    areas: Tensor  #: (B, ..., 2) in [0, 1], under the curves over the share of changed pixels, by trapezoids


def insertion_deletion(
    classifier: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: None | int | Tensor = None,
    *,
    step: int = STEP,
    start: Filling = "blurred",
    filling: Filling = "grey",
    batch_size: int | None = None,
) -> Played:
    """The probability of the class while pixels change in the order of their saliency, and the areas below its curves.

    Of pixels of equal value, the first in row order changes first. Several maps of an image share their
    end points: B images with M maps each take 2 B + 1 + 2 B M (n - 2) forward passes. Raises InputError for images,
    maps, targets or fillings that do not fit, a step or a batch size below 1.

    Args:
        classifier: a `Classifier`, or any module from images to logits (B, K); left as it was, also after an error.
        images: (B, C, H, W) in the network's normalized input space, where 0 is mean grey.
        maps: (B, ..., H, W), one or more for each image; higher is more salient, and nothing but the order matters.
        targets: None for the network's prediction, one class index for all, or (B,) int64.
        step: pixels that change at once; the last step takes those that are left, and is narrower in the area.
        start: what insertion starts from, see `Filling`.
        filling: what deletion ends with; if it equals `start`, insertion's area minus deletion's depends on the order
            alone, and not on the filling (Bluecher et al. 2024).
        batch_size: pictures that the network gets at once, which affects memory alone; None for `full_batch`.

    Returns:
        Curves (B, ..., 2, n) for the METRICS, with n = ceil(H W / step) + 1, and their areas (B, ..., 2), in the
        images' type and on their device: probabilities after softmax, the first with no pixel changed, the last with
        all.
    """
    with ready(classifier, images, targets, gradient=False) as (images, targets):
        _check_game(images, maps, step)
        batch_size = full_batch(classifier, images.device, batch_size)
        order = ranks(maps.to(images.device)).reshape(len(images), -1, *images.shape[2:])  # (B, M, H, W)
        first = _filled(images, start)
        last = first if filling is start or isinstance(filling, str) and filling == start else _filled(images, filling)
        passes = Passes(classifier)
        targets, (whole, begun, ended) = _end_points(passes, [images, first, last], targets, batch_size)
        curves = images.new_empty(*order.shape[:2], len(METRICS), math.ceil(order[0, 0].numel() / step) + 1)
        curves[..., 0] = torch.stack([begun, whole], 1)[:, None]
        curves[..., -1] = torch.stack([whole, ended], 1)[:, None]
        first, last = first.expand_as(images), last.expand_as(images)
        before, after = torch.stack([first, images], 1), torch.stack([images, last], 1)  # (B, 2, C, H, W)
        between = curves[..., 1:-1]
        # One index runs over images, maps, games and steps, so batches are full however many of each there are.
        places = on(images.device, torch.stack(torch.unravel_index(torch.arange(between.numel()), between.shape)))
        for image, which, game, done in places.split(batch_size, 1) if between.numel() else ():
            changed = order[image, which] < (done[:, None, None] + 1) * step  # (batch, H, W)
            pictures = torch.where(changed[:, None], after[image, game], before[image, game])
            scores = class_probabilities(classifier, passes(pictures), curves.dtype)
            between[image, which, game, done] = scores.gather(1, targets[image, None])[:, 0]
    curves = curves.reshape(*maps.shape[:-2], *curves.shape[2:])
    pixels = maps.shape[-2:].numel()
    changed = (torch.arange(curves.shape[-1], dtype=torch.double) * step).clamp(max=pixels) / pixels  # (n,)
    return Played(curves, torch.trapezoid(curves, changed.to(curves)))


def single_deletion(classifier: nn.Module, images: Tensor, maps: Tensor, targets: Tensor | None = None) -> Tensor:
    """How well a map's sums over a grid's cells rank these cells by the probability that the class loses without each.

    Returns (B, ..., 2) for the SINGLE_FILLINGS: Spearman's rank correlation over the cells, in [-1, 1]; 0 where sums or
    losses are constant. Takes 2 CELLS**2 + 1 forward passes per image, for all of its maps together. Arguments and
    errors are those of `insertion_deletion`.
    """
    with ready(classifier, images, targets, gradient=False) as (images, targets):
        _check_game(images, maps, 1)
        lines = [torch.arange(size, device=images.device) * CELLS // size for size in images.shape[2:]]
        places = lines[0][:, None] * CELLS + lines[1]
        masks = places == torch.arange(CELLS**2, device=images.device)[:, None, None]  # (CELLS**2, H, W)
        fillings = torch.stack([_filled(images, each).expand_as(images) for each in SINGLE_FILLINGS], 1)
        size = full_batch(classifier, images.device)
        passes = Passes(classifier)
        targets, (whole,) = _end_points(passes, [images], targets, size)
        lost = whole[:, None, None].repeat(1, len(SINGLE_FILLINGS), len(masks))
        classes = targets.tolist()
        for image, empty in itertools.product(range(len(images)), range(len(SINGLE_FILLINGS))):
            pictures = torch.where(masks[:, None], fillings[image, empty], images[image])
            logits = torch.cat([passes(some) for some in pictures.split(size)])
            lost[image, empty] -= class_probabilities(classifier, logits, lost.dtype)[:, classes[image]]
    flat = maps.reshape(len(maps), -1, *maps.shape[-2:]).to(masks.device, torch.double)
    sums = torch.einsum("bmhw,khw->bmk", flat, masks.double())
    found = torch.from_numpy(spearman(sums[:, :, None].cpu().numpy(), lost[:, None].cpu().numpy()))
    return found.reshape(*maps.shape[:-2], len(SINGLE_FILLINGS))


def auc(curves: Curves) -> Curves:
    """The area (...) under curves (..., n) with equal steps over [0, 1], by trapezoids, as in RISE.
    It is that of `insertion_deletion` where the step divides the pixels. Needs two scores or more (else InputError)."""
    n = curves.shape[-1]
    if n < 2:
        raise InputError(f"the area under a curve needs two scores or more, not {n}.")
    return (curves.sum(-1) - curves[..., 0] / 2 - curves[..., -1] / 2) / (n - 1)


def impulse_blur(maps: Tensor, sigma: float) -> Tensor:
    """RISE's blur, for the image that insertion starts from and, as in the paper, for maps.

    The kernel is an impulse in the middle of a square, blurred within the square by a Gaussian that is reflected at its
    borders. RISE's square is 11 x 11, for sigma 5: nearly a box. Here its side is 2 sigma + 1, rounded up to an odd
    number and at least 11. Maps are (..., H, W) of floating point, with 0 beyond their borders; sigma is a standard
    deviation in pixels, finite and not negative (else InputError).
    """
    check_blur(maps, sigma)
    if sigma == 0:
        return maps
    half = max(5, math.ceil(sigma))
    impulse = torch.eye(2 * half + 1, dtype=torch.double)[half : half + 1]  # (1, L): the square's kernel is separable
    kernel = gaussian_blur(impulse, sigma)[0, half:].to(maps)  # it is symmetric
    # As matrices and not as a convolution, which on a GPU would round to ten bits and reorder pixels.
    lines = (torch.arange(size, device=maps.device) for size in maps.shape[-2:])
    height, width = (functional.pad(kernel, (0, len(each)))[(each - each[:, None]).abs()] for each in lines)
    with torch.autocast(maps.device.type, enabled=False):
        return height @ maps @ width


def ranks(maps: Tensor) -> Tensor:
    """For each pixel of maps (..., H, W), how many change before it in the games: int64 of the same shape."""
    order = maps.flatten(-2).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(-1).reshape(maps.shape)


def _filled(images: Tensor, filling: Filling) -> Tensor:
    """The filling (B, C, H, W), or (1, C, H, W) if the same for all images. InputError for one that does not fit."""
    if isinstance(filling, str):
        if filling not in FILLINGS:
            known = ", ".join(FILLINGS)
            raise InputError(f"there is no filling {filling!r}{nearest(filling, FILLINGS)}; there are {known}.")
        filling = FILLINGS[filling]
    pictures = filling(images) if callable(filling) else filling
    if not isinstance(pictures, Tensor) or pictures.shape not in (images.shape, images[:1].shape):
        raise InputError(f"a filling must be pictures {tuple(images.shape)}, or one for all, not {kind_of(pictures)}.")
    if not pictures.isfinite().all():
        raise InputError("a filling must be finite, and holds NaN or infinity.")
    return pictures.to(images)


def _end_points(
    passes: Passes, ends: Sequence[Tensor], targets: Tensor | None, batch_size: int
) -> tuple[Tensor, list[Tensor]]:
    """The targets (B,), as predicted for the first of `ends` if None, and their probabilities (B,) at each end; an end
    that is listed twice passes the network once."""
    batch, distinct = len(ends[0]), {id(each): each for each in ends}
    logits = []
    for some in torch.cat([*distinct.values()]).split(batch_size):
        logits.append(passes(some))
        check_logits(logits[-1], len(some), multilabel=False)
    scores = class_probabilities(passes.network, torch.cat(logits), ends[0].dtype)  # also inside autocast
    parts = dict(zip(distinct, scores.split([len(each) for each in distinct.values()]), strict=True))
    targets = resolve_targets(parts[id(ends[0])], batch, targets)
    columns = [parts[id(each)].expand(batch, -1).gather(1, targets[:, None])[:, 0] for each in ends]
    return targets, columns


def _check_game(images: Tensor, maps: Tensor, step: int) -> None:
    if not isinstance(step, Integral) or step < 1:
        raise InputError(f"step must be a whole number, at least 1, not {step}.")
    batch, _, *size = images.shape
    if not isinstance(maps, Tensor) or maps.ndim < 3 or (maps.shape[0], *maps.shape[-2:]) != (batch, *size):
        raise InputError(f"maps must be a tensor ({batch}, ..., {size[0]}, {size[1]}), not {kind_of(maps)}.")
    if maps.numel() == 0 or not maps.isfinite().all():
        raise InputError("maps must be at least one for each image, with finite values.")


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    needed: dict[str, np.ndarray],
    array: str,
    sigmas: Sequence[float],
    step: int,
    filling: str,
) -> dict[str, np.ndarray]:
    """What a shard computes from maps `needed[array]` (B, H, W), blurred: each game's curves (B, sigmas, n) float32.

    If both games have the blurred filling, it also plays `single_deletion`: single_blurred and single_grey (B, sigmas).
    """
    images = classifier.preprocess(pictures)
    maps = torch.from_numpy(needed[array].astype(np.float32)).to(images.device)
    blurred = torch.stack([impulse_blur(maps, sigma) for sigma in sigmas], 1)
    targets = torch.from_numpy(needed["targets"])
    curves, _ = insertion_deletion(classifier, images, blurred, targets, step=step, filling=filling)
    curves = curves.cpu().numpy().round(DECIMALS)
    found = {game: curves[:, :, index] for index, game in enumerate(METRICS)}
    if filling == "blurred":
        ranked = single_deletion(classifier, images, blurred, targets).numpy()
        found |= {f"single_{each}": ranked[..., index] for index, each in enumerate(SINGLE_FILLINGS)}
    return found
