"""The maps of one perturbation: unguided and guided share it."""

from collections.abc import Sequence

from PIL import Image

from perceptual_lib.core.networks import Classifier
from perceptual_lib.core.perturbation import perceptual_ball
from perceptual_lib.core.saliency import class_gradient, saliency_map
from perceptual_lib.evaluation.packing import pack_maps


def compute(classifier: Classifier, pictures: Sequence[Image.Image], *, settings: dict) -> dict:
    """The perturbation that takes the predicted class away, as maps that are not blurred.

    Args:
        classifier: the network.
        pictures: B of them.
        settings: of `perceptual_ball`.

    Returns:
        As `shards.explanation.compute`; beside `maps`, the root mean square over the channels, also `guided` (B, H, W)
        with `guided_scales`, and of the perturbation margin_before, margin, evaluations, converged and failed (B,).
    """
    images = classifier.preprocess(pictures)
    result = perceptual_ball(classifier, images, **settings)
    gradient = class_gradient(classifier, images, result.targets)
    facts = ("targets", "margin_before", "margin", "evaluations", "converged", "failed")
    return {
        **{name: getattr(result, name).cpu().numpy() for name in facts},
        **pack_maps(saliency_map(result.delta)),
        **pack_maps(saliency_map(result.delta, gradient=gradient), "guided"),
    }
