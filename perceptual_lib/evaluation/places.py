"""Maps scaled and blurred, and where they lie: the dominant component (Fig. 1, Sec. 4.2), the share inside boxes."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage
from torch import Tensor

from perceptual_lib.core.saliency import gaussian_blur


def scale_and_blur(maps: Tensor, sigma: float = 0.0) -> Tensor:
    """Maps (N, H, W), each scaled so that its values range from 0 to 1 (a constant one to 0), then blurred by a
    Gaussian with this standard deviation in pixels of the map."""
    low, high = torch.aminmax(maps.flatten(1), dim=1)
    span = torch.where(high > low, high - low, 1)
    return gaussian_blur((maps - low[:, None, None]) / span[:, None, None], sigma)


def dominant_component(saliency: np.ndarray, alpha: float) -> tuple[np.ndarray, tuple[int, int, int, int] | None]:
    """The largest connected part of a map (H, W) above a share alpha of its range ("value", Sec. 4.2).

    Returns its mask (H, W) bool and its box (left, top, right, bottom) in inclusive pixels, None if nothing is above.
    """
    low, high = saliency.min(), saliency.max()
    labels, count = ndimage.label(saliency > low + alpha * (high - low), structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(saliency.shape, dtype=bool), None
    largest = 1 + np.argmax(np.bincount(labels.ravel())[1:])
    rows, columns = ndimage.find_objects(labels)[largest - 1]
    return labels == largest, (columns.start, rows.start, columns.stop - 1, rows.stop - 1)


def share_inside(maps: ArrayLike, masks: ArrayLike) -> np.ndarray:
    """Share (...) in [0, 1] of the sum of maps (..., H, W) that lies inside masks (..., H, W); nan for a map of zeros.

    Maps must not be negative. Both are arrays, or tensors on the CPU.
    """
    maps, masks = np.asarray(maps, dtype=np.float64), np.asarray(masks, dtype=bool)
    with np.errstate(invalid="ignore"):
        return (maps * masks).sum((-2, -1)) / maps.sum((-2, -1))


def effective_share(maps: np.ndarray) -> np.ndarray:
    """Participation ratio (...) of nonnegative maps (..., H, W): the share of pixels in use, 1 if even; 0 for zeros."""
    peaks = (maps**2).sum((-2, -1))
    return maps.sum((-2, -1)) ** 2 / np.where(peaks > 0, peaks, 1) / np.prod(maps.shape[-2:])


def extent(maps: np.ndarray) -> np.ndarray:
    """How far nonnegative maps (..., H, W) reach, (...): the root mean square distance of their mass from its centre,
    divided by that of an even map; nan for a map of zeros."""
    variance = even = 0.0
    with np.errstate(invalid="ignore"):
        for axis, size in zip((-1, -2), maps.shape[-2:], strict=True):  # the axis summed over, the size of the other
            line, places = maps.sum(axis) / maps.sum((-2, -1))[..., None], np.arange(size)
            variance = variance + line @ places**2 - (line @ places) ** 2
            even += (size**2 - 1) / 12
    return np.sqrt(np.maximum(variance, 0) / even)


def edge_mask(picture: ArrayLike, share: float = 0.1, around: float = 0.0) -> np.ndarray:
    """The edges (H, W) bool of a picture (H, W, 3): the given share of its pixels, where the brightness changes most.

    With `around`, a sigma in pixels, that change is first blurred: the mask then shows texture instead of edges.
    """
    steepness = ndimage.gaussian_gradient_magnitude(np.asarray(picture, dtype=np.float64).mean(-1), sigma=1)
    steepness = ndimage.gaussian_filter(steepness, around) if around else steepness
    return steepness > np.quantile(steepness, 1 - share)
