"""Sanity checks (paper Sec. 4.5): does a map change when the network forgets what it has learned?

Cascading randomization (Adebayo et al. 2018): layer after layer, from the last to the first, takes the values that it
has in an untrained network, and keeps them. A map that explains the network must then become another one; a map that
stays as it is shows the image and not the network.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptual_lib.core.activations import network_of
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.places import scale_and_blur
from perceptual_lib.networks.classifier import stages
from perceptual_lib.networks.sources import load_classifier

WINDOW = 11  # pixels: the least side of a map that SSIM compares


def cascade(
    network: nn.Module, layers: Sequence[str] | None = None, *, fresh: nn.Module
) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a network, each with one more of its layers as in an untrained network.

    With a layer go the batch norms behind it, up to the end of the network: weights, biases and running statistics.
    Those statistics describe what the layers before used to send, and that is no longer what comes. "Behind" is by
    the order in which the network lists its modules. Layers that are not named keep what they have learned.

    Args:
        network: a `Classifier`, or any module; neither it nor its copies are put into another mode.
        layers: paths of modules within the network (of a `Classifier`, within its `network`), from the last to the
            first; None for `stages`.
        fresh: an untrained network of the same layers, as from `fresh_network`.

    Returns:
        An iterator of each layer's path and the copy, of the network's class, type and device. The copies are
        independent of each other; keep none, and there are never more than two.

    Raises:
        InputError: at once, for a layer that is unknown or has no weights, or a fresh network of other layers.
    """
    layers = stages(network) if layers is None else layers
    known = dict(network_of(network).named_modules())
    wrong = [layer for layer in layers if layer not in known or not known[layer].state_dict()]
    if wrong:
        raise InputError(f"the network has no layer {wrong[0]!r} with weights; it has {', '.join(stages(network))}.")
    fresh = network_of(fresh)
    shapes, own = ({k: v.shape for k, v in each.state_dict().items()} for each in (fresh, network_of(network)))
    if shapes != own:
        raise InputError("the fresh network has other layers than the network; give one of the same architecture.")
    return _copies(network, layers, fresh)


def _copies(network: nn.Module, layers: Sequence[str], fresh: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for layer in layers:
        network = deepcopy(network)
        for path in (layer, *_batch_norms_behind(fresh, layer)):
            network_of(network).get_submodule(path).load_state_dict(fresh.get_submodule(path).state_dict())
        yield layer, network


def _batch_norms_behind(network: nn.Module, layer: str) -> list[str]:
    paths = [path for path, _ in network.named_modules()]
    behind = paths[paths.index(layer) + 1 :]
    return [path for path in behind if isinstance(network.get_submodule(path), _BatchNorm)]


def fresh_network(network: str | nn.Module, seed: int = 0) -> nn.Module:
    """A network as it is before training, on the CPU, the same on every device.

    Args:
        network: a name for `load_classifier`: the network as its library initializes it. Or a module, whose copy is
            initialized by the `reset_parameters` of its layers, PyTorch's own defaults: not what the builders of many
            published networks, VGG's among them, replace these by.
        seed: of the values; torch's own random numbers go on as if none had been drawn.

    Raises:
        InputError: a name as for `load_classifier`; a module with weights of its own and no `reset_parameters`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, for good
        if isinstance(network, str):
            return load_classifier(network, weights="random", device="cpu").network
        copy = deepcopy(network_of(network)).cpu()
        for path, module in copy.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif any(True for _ in module.parameters(recurse=False)):
                raise InputError(
                    f"{path or 'the network'} ({type(module).__name__}) does not say how its weights are initialized; "
                    "give cascade a fresh network."
                )
        return copy


def rank_correlation(maps: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Spearman's rank correlation of two maps, pixels of one value having their mean rank.

    A constant map puts its pixels in no order, and the correlation is undefined: it counts as 0, so that an average
    over images does not lose those whose map has vanished.

    Args:
        maps, others: (N, H, W) each; arrays, or tensors on the CPU.

    Returns:
        (N,) in [-1, 1].

    Raises:
        InputError: other shapes, or values that are not finite.
    """
    first, second = (rankdata(each.reshape(len(each), -1), axis=1) for each in _pair(maps, others))
    first, second = (ranks - ranks.mean(1, keepdims=True) for ranks in (first, second))
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return (first * second).sum(1) / np.where(size > 0, size, 1)


def structural_similarity(maps: ArrayLike, others: ArrayLike) -> np.ndarray:
    """SSIM of two maps, each scaled to [0, 1] first (Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5).

    A constant map becomes 0. The mean is over the windows that lie within the map.

    Args:
        maps, others: (N, H, W) each, H and W at least 11; arrays, or tensors on the CPU.

    Returns:
        (N,) in [-1, 1]; 1 for equal maps.

    Raises:
        InputError: other shapes, or values that are not finite.
    """
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
    """Weighted means (N, H - 10, W - 10) in each window of maps (N, H, W)."""
    half = WINDOW // 2
    return gaussian_filter(maps, 1.5, radius=half, axes=(1, 2))[:, half:-half, half:-half]


def _pair(maps: ArrayLike, others: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, H, W) float64; raises InputError for other shapes, or values that are not finite."""
    pair = np.asarray(maps, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if pair[0].ndim != 3 or pair[0].size == 0 or pair[0].shape != pair[1].shape:
        raise InputError(f"maps to compare must have one shape (N, H, W), not {pair[0].shape} and {pair[1].shape}.")
    if not all(np.isfinite(each).all() for each in pair):
        raise InputError("maps to compare must be finite.")
    return pair
