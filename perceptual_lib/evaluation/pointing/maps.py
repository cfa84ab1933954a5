"""Maps for the questions of the pointing game (Sec. 4.4)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from perceptual_lib.evaluation.maps import pack_maps, unblurred_maps
from perceptual_lib.evaluation.pointing.regions import class_responses, class_scores, region_inputs
from perceptual_lib.methods.registry import find_method
from perceptual_lib.networks.classifier import Classifier

AT_ONCE = 5  # questions at scale 1: a larger input takes more memory


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    method: str,
    settings: dict,
    scale: float,
    targets: list[list[int]],
) -> dict[str, np.ndarray]:
    """Maps that are not blurred, of several classes in each picture.

    Args:
        classifier: the network.
        pictures: B of one size.
        method, settings: as for `unblurred_maps`.
        scale: of the network's input, as for `region_inputs`.
        targets: Q classes for each picture.

    Returns:
        maps (B, Q, h, w), of the size of the network's input, and maps_scales (B, Q) as `pack_maps` has them.
    """
    images = torch.cat([region_inputs(classifier, picture, scale) for picture in pictures])
    asked = torch.tensor(targets)  # (B, Q)
    # Our own methods take the largest region (Eq. 2).
    network = class_responses(classifier) if find_method(method).ours else class_scores(classifier)
    images, questions = images.repeat_interleave(asked.shape[1], 0), asked.flatten()
    few = max(1, int(AT_ONCE / scale**2))
    pieces = zip(images.split(few), questions.split(few), strict=True)
    maps = torch.cat([unblurred_maps(network, *piece, method, settings, multilabel=True) for piece in pieces])
    return pack_maps(maps.unflatten(0, asked.shape))
