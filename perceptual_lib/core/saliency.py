"""From perturbation to saliency map (paper Sec. 3, end, and the guided variant of Sec. 4.2)."""

import numpy as np
import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import trace
from perceptual_lib.core.batches import portions
from perceptual_lib.core.calling import ask, kind_of, network_of, with_gradient
from perceptual_lib.core.checks import ready, target_logits
from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.selection import held_layers


def saliency_map(delta: Tensor, sigma: float = 0.0, *, root: bool = True, gradient: Tensor | None = None) -> Tensor:
    """Size of the perturbation in each pixel, blurred.

    Args:
        delta: (B, C, H, W) perturbation.
        sigma: standard deviation of the Gaussian blur in pixels; 0 leaves the map as it is.
        root: the root of the mean square over channels, as the authors' code has it ("magnitude", Fig. 1); False
            for the mean square itself, as the paper's text has it. They rank pixels alike until they are blurred.
        gradient: (B, C, H, W) gradient of the class's logit for the guided variant: the map is then the mean over
            channels of `|delta g|`, with g scaled to a largest magnitude of 1 in each image.

    Returns:
        (B, H, W), not negative, not normalized. Raises InputError for shapes that do not fit, or a negative sigma.
    """
    if not isinstance(delta, Tensor) or delta.ndim != 4 or (gradient is not None and gradient.shape != delta.shape):
        raise InputError("delta, and gradient where given, must be tensors of the same shape (B, C, H, W).")
    if gradient is not None:
        largest = gradient.abs().amax((1, 2, 3), keepdim=True)
        maps = (delta * gradient / torch.where(largest > 0, largest, 1)).abs().mean(1)
    else:
        maps = delta.square().mean(1)
        maps = maps.sqrt() if root else maps
    return gaussian_blur(maps, sigma)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Maps (..., H, W) as `scipy.ndimage.gaussian_filter(map, sigma)` blurs each: borders reflected, cut at 4 sigma."""
    check_blur(maps, sigma)
    if sigma == 0:
        return maps
    height, width = (
        torch.as_tensor(_blur_matrix(size, sigma), dtype=maps.dtype, device=maps.device) for size in maps.shape[-2:]
    )
    with torch.autocast(maps.device.type, enabled=False):  # which would round different values to equal ones
        return height @ maps @ width.T


def check_blur(maps: Tensor, sigma: float) -> None:
    """Raise InputError unless maps are of floating point, as a kernel of whole numbers is 0, and sigma is a length."""
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise InputError(f"maps must be a tensor of floating point, not {kind_of(maps)}.")
    if not (np.isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma must be a finite number of pixels, at least 0, not {sigma}.")


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """(size, size): row i holds the weights with which the pixels of a line enter its blurred pixel i."""
    sigma = min(sigma, 10 * size)  # wider, it is the mean of the line
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    source = (np.arange(size)[:, None] + offsets) % (2 * size)  # d c b a | a b c d | d c b a, of period 2 size
    source = np.minimum(source, 2 * size - 1 - source)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source), weights)
    return matrix


def input_gradient(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Gradient (B, C, H, W) of each image's own logit, or without targets its largest. Raises as `target_logits`."""
    return with_gradient(lambda images: target_logits(ask(network, images), len(images), targets), images)[1]


def relative_changes(model: nn.Module, inputs: Tensor, delta: Tensor) -> Tensor:
    """(layers, B), how far each activation moves, in units of its own size: ||C_l(x + delta) - C_l(x)|| / ||C_l(x)||.

    model as for `perceptual_ball`; inputs, delta: (B, C, H, W). 0 where nothing moves, infinity
    where an activation that is 0 everywhere does.
    InputError where no activation is seen, or delta is not of the inputs' shape.
    """
    if delta.shape != inputs.shape:
        raise InputError(f"delta must have the inputs' shape {tuple(inputs.shape)}, not {tuple(delta.shape)}.")
    found = []
    with ready(model, inputs, None, gradient=False) as (images, _):
        for each in portions(model, torch.stack([images, images + delta.to(images)], 1), None):
            (_, seen, before), (_, _, after) = (trace(network_of(model), some) for some in each[0].unbind(1))
            held_layers(None, seen)  # raises where there are none
            if len(before) != len(after):
                raise InputError(f"the network takes another path for the changed image{see('Another path')}.")
            sizes, moves = (
                torch.stack([each.reshape(len(each), -1).norm(dim=1) for each in values])
                for values in (before, [b - a for a, b in zip(before, after, strict=True)])
            )
            found.append(torch.where(moves == 0, 0, moves / sizes))
    return torch.cat(found, 1)


def class_gradient(model: nn.Module, inputs: Tensor, targets: None | int | Tensor = None) -> Tensor:
    """Gradient (B, C, H, W) of the class's logit C_i with respect to the image, for the guided map.

    The arguments, and what is raised, are those of `perceptual_ball`.
    """
    with ready(model, inputs, targets) as (images, classes):
        return torch.cat([input_gradient(model, *each) for each in portions(model, images, classes)])
