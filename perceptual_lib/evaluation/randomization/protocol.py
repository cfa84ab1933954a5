"""Sanity checks (paper Sec. 4.5): does a map change when the network forgets what it has learned?

Cascading randomization (Adebayo et al. 2018): layer after layer, from the last to the first, takes the values that it
has in an untrained network, and keeps them. A map that explains the network must then become another one; a map that
stays as it is shows the image and not the network.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptual_lib.core.calling import network_of
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.maps import pack_maps, unblurred_maps
from perceptual_lib.evaluation.places import edge_mask, scale_and_blur, share_inside
from perceptual_lib.evaluation.statistics import spearman
from perceptual_lib.networks.classifier import Classifier, stages
from perceptual_lib.networks.sources import load_classifier
from perceptual_lib.photographs.boxes import Box, box_mask

WINDOW = 11  # pixels: the least side of a map that SSIM compares
AROUND = 8.0  # pixels: texture is how much the brightness changes within about this distance


def cascade(
    network: nn.Module, layers: Sequence[str] | None = None, *, fresh: nn.Module
) -> Iterator[tuple[str, nn.Module]]:
    """Each layer's path, and a copy of the network in which this layer and those listed before it are untrained.

    With a layer, all batch norms behind it become untrained, too, up to the end of the network: their statistics
    describe activations that they no longer get. "Behind" is by the order in which the network lists its modules. The
    copies have the network's type, device and mode, and are independent of each other; if the caller keeps none, there
    are never more than two.

    Args:
        network: a `Classifier`, or any module; left as it was.
        layers: paths of modules within the network (of a `Classifier`, within its `network`), from the last to the
            first; None for `stages`. One that is unknown or has no weights raises InputError at once.
        fresh: an untrained network of the same layers (else InputError), as from `fresh_network`.
    """
    layers = stages(network) if layers is None else layers
    own, fresh = network_of(network), network_of(fresh)
    known = dict(own.named_modules())
    wrong = [layer for layer in layers if layer not in known or not known[layer].state_dict()]
    if wrong:
        raise InputError(f"the network has no layer {wrong[0]!r} with weights; it has {', '.join(stages(network))}.")
    shapes, others = ({name: value.shape for name, value in each.state_dict().items()} for each in (own, fresh))
    if shapes != others:
        raise InputError("the fresh network has other layers than the network; give one of the same architecture.")
    return _copies(network, layers, fresh)


def _copies(network: nn.Module, layers: Sequence[str], fresh: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    parts = dict(fresh.named_modules())
    paths = list(parts)
    for layer in layers:
        network = deepcopy(network)
        norms = [path for path in paths[paths.index(layer) + 1 :] if isinstance(parts[path], _BatchNorm)]
        for path in (layer, *norms):
            network_of(network).get_submodule(path).load_state_dict(parts[path].state_dict())
        yield layer, network


def fresh_network(name: str, seed: int = 0) -> nn.Module:
    """A network as its library initializes it before training, by its name for `load_classifier`; on the CPU."""
    return load_classifier(name, weights="random", device="cpu", seed=seed).network


def rank_correlation(maps: ArrayLike, others: ArrayLike) -> np.ndarray:
    """(N,) in [-1, 1], Spearman's rank correlation of maps (N, H, W), arrays or tensors on the CPU.

    It is undefined for a constant map and then counts as 0, so that an average over images does not lose those whose
    map has vanished. Raises InputError for maps whose shapes differ, without pixels or not finite.
    """
    return spearman(*(each.reshape(len(each), -1) for each in _pair(maps, others)))


def structural_similarity(maps: ArrayLike, others: ArrayLike) -> np.ndarray:
    """SSIM (N,) of pairs of maps (Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5), a mean over the windows
    within the map. Each map is first scaled to [0, 1], a constant one to 0. Arguments and errors are as for
    `rank_correlation`, with H and W at least 11."""
    pair = _pair(maps, others)
    if min(pair[0].shape[1:]) < WINDOW:
        raise InputError(f"SSIM compares maps of at least {WINDOW} x {WINDOW} pixels, not {pair[0].shape[1:]}.")
    x, y = (scale_and_blur(torch.from_numpy(each)).numpy() for each in pair)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    small, smaller = 0.01**2, 0.03**2  # the published constants for values in [0, 1]
    luminance = (2 * mean_x * mean_y + small) / (mean_x**2 + mean_y**2 + small)
    return (luminance * (2 * covariance + smaller) / (variances + smaller)).mean((1, 2))


def _windowed(maps: np.ndarray) -> np.ndarray:
    """(N, H - 10, W - 10) weighted means in each window of maps (N, H, W)."""
    half = WINDOW // 2
    return gaussian_filter(maps, 1.5, radius=half, axes=(1, 2))[:, half:-half, half:-half]


def _pair(maps: ArrayLike, others: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, H, W) float64, checked."""
    pair = np.asarray(maps, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if pair[0].ndim != 3 or pair[0].size == 0 or pair[0].shape != pair[1].shape:
        raise InputError(f"maps to compare must have one shape (N, H, W), not {pair[0].shape} and {pair[1].shape}.")
    if not all(np.isfinite(each).all() for each in pair):
        raise InputError("maps to compare must be finite.")
    return pair


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    method: str,
    settings: dict[str, Any],
    model: str,
    layers: Sequence[str],
    seed: int,
    sigma: float,
    boxes: Sequence[Sequence[Box]],
) -> dict[str, np.ndarray]:
    """What a shard computes: maps by the network and by its randomized copies, for the classes that it predicts.

    The first stage is the network itself, and each of the others randomizes one more layer. Returns maps
    (B, stages, H, W) and maps_scales (B, stages), as from `pack_maps`, and the measures (B, stages) of `Randomization`.
    Model, seed and layers are as for `fresh_network` and `cascade`; sigma is a Gaussian blur of the maps in pixels.
    """
    images = classifier.preprocess(pictures)
    with torch.no_grad():
        targets = classifier(images).argmax(1)
    copies = (copy for _, copy in cascade(classifier, layers, fresh=fresh_network(model, seed)))  # one at a time
    maps = [
        gaussian_blur(unblurred_maps(network, images, targets, method, settings), sigma)
        for network in chain([classifier], copies)
    ]
    first = maps[0].cpu()
    masks = np.stack([box_mask(of_image, *first.shape[1:]) for of_image in boxes])
    texture = np.stack([edge_mask(picture, 0.25, AROUND) for picture in classifier.pixels(images)])
    found = []
    for later in maps:
        kept = pack_maps(later)
        energy = kept["maps"].astype(np.float64) ** 2
        measures = {
            "correlation": rank_correlation(first, later.cpu()),
            "ssim": structural_similarity(first, later.cpu()),
            "inside": share_inside(energy, masks),
            "textured": share_inside(energy, texture),
            "area": masks.mean((1, 2)),
        }
        found.append(kept | measures)
    return {name: np.stack([stage[name] for stage in found], 1) for name in found[0]}
