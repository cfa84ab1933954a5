"""Maps by any method."""

from collections.abc import Sequence

import torch
from PIL import Image

from perceptual_lib.core.networks import Classifier
from perceptual_lib.evaluation.packing import pack_maps
from perceptual_lib.methods.registry import explain


def compute(classifier: Classifier, pictures: Sequence[Image.Image], *, method: str, settings: dict) -> dict:
    """Maps of the predicted classes.

    Args:
        classifier: the network.
        pictures: B of them.
        method, settings: as for `explain`.

    Returns:
        targets (B,), the predictions; maps (B, H, W) and maps_scales (B,) as `packed` has them.
    """
    images = classifier.preprocess(pictures)
    with torch.no_grad():
        targets = classifier(images).argmax(1)
    return {
        "targets": targets.cpu().numpy(),
        **pack_maps(explain(classifier, images, targets, method=method, **settings)),
    }
