"""Maps of a network that is randomized layer by layer (Sec. 4.5)."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from PIL import Image

from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.maps import pack_maps, unblurred_maps
from perceptual_lib.evaluation.randomization.protocol import (
    cascade,
    fresh_network,
    rank_correlation,
    structural_similarity,
)
from perceptual_lib.networks.classifier import Classifier


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    method: str,
    settings: dict,
    model: str | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    sigma: float = 0.0,
) -> dict[str, np.ndarray]:
    """Maps of the classes that the network predicts, by it and by its randomized copies, and how far they agree.

    Args:
        classifier: the network.
        pictures: B of them.
        method, settings: as for `unblurred_maps`.
        model: what `load_classifier` knows the network by, for its untrained values; None for PyTorch's own.
        layers: as for `cascade`.
        seed: of the untrained values, see `fresh_network`.
        sigma: Gaussian blur of the maps in pixels, beside what the method's own settings say.

    Returns:
        Of stages, the first of which is the network itself and the others follow the layers: maps (B, stages, H, W)
        and maps_scales (B, stages) as `pack_maps` has them; correlation and ssim (B, stages) with the first map. Also
        targets (B,).
    """
    images = classifier.preprocess(pictures)
    with torch.no_grad():
        targets = classifier(images).argmax(1)
    fresh = fresh_network(classifier if model is None else model, seed)
    copies = (copy for _, copy in cascade(classifier, layers, fresh=fresh))  # one at a time in memory
    maps = torch.stack(
        [
            gaussian_blur(unblurred_maps(network, images, targets, method, settings), sigma)
            for network in chain([classifier], copies)
        ]
    )  # (stages, B, H, W)
    shares = [pack_maps(of_stage) for of_stage in maps]
    compared = maps.cpu()
    return {
        "targets": targets.cpu().numpy(),
        **{name: np.stack([share[name] for share in shares], 1) for name in shares[0]},
        "correlation": np.stack([rank_correlation(compared[0], later) for later in compared], 1),
        "ssim": np.stack([structural_similarity(compared[0], later) for later in compared], 1),
    }
