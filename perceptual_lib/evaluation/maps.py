"""Maps of photographs by any method, without a blur, and as they are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from perceptual_lib.core.calling import ask, with_gradient
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.perturbation import multiclass_margin
from perceptual_lib.core.saliency import class_gradient, relative_changes, saliency_map
from perceptual_lib.methods.registry import explain, find_method
from perceptual_lib.networks.classifier import Classifier


def compute(
    classifier: Classifier, pictures: Sequence[Image.Image], *, method: str, settings: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Maps of the classes predicted for B pictures, with a method and settings as for `explain`.

    Targets (B,), the predictions; maps (B, H, W) and maps_scales (B,) as `pack_maps` has them. One perturbation has the
    maps of all of our own methods: maps are then the root mean square over the channels, and there are also guided
    (B, H, W) with guided_scales, and (B,) margin_before, margin, evaluations, converged, failed, becomes, the
    prediction of the changed image, cosine with the margin's steepest descent and growth, how much more the last
    activation changes than the pixels.
    """
    images = classifier.preprocess(pictures)
    if not find_method(method).ours:
        with torch.no_grad():
            targets = classifier(images).argmax(1)
        maps = explain(classifier, images, targets, method=method, **settings)
        return {"targets": targets.cpu().numpy(), **pack_maps(maps)}
    result = perceptual_ball(classifier, images, **settings)
    gradient = class_gradient(classifier, images, result.targets)
    delta = result.delta.flatten(1)
    with torch.no_grad():
        becomes = classifier(images + result.delta).argmax(1)
    rise = with_gradient(lambda changed: multiclass_margin(ask(classifier, changed), result.targets), images)[1]
    grown = relative_changes(classifier, images, result.delta)[-1]
    facts = ("targets", "margin_before", "margin", "evaluations", "converged", "failed")
    return {
        **{name: getattr(result, name).cpu().numpy() for name in facts},
        "becomes": becomes.cpu().numpy(),
        "cosine": cosine_similarity(-delta, rise.flatten(1)).cpu().numpy(),
        "growth": (grown * images.flatten(1).norm(dim=1) / delta.norm(dim=1)).cpu().numpy(),
        **pack_maps(saliency_map(result.delta)),
        **pack_maps(saliency_map(result.delta, gradient=gradient), "guided"),
    }


def unblurred_maps(
    network: nn.Module, images: Tensor, targets: Tensor, method: str, settings: Mapping[str, Any], **margin: bool
) -> Tensor:
    """(B, H, W): what `explain` returns; of our own methods without blur, and with `multilabel` where that is said."""
    of_ours = {"sigma": 0.0, **margin} if find_method(method).ours else {}
    return explain(network, images, targets, method=method, **settings, **of_ours)


def pack_maps(maps: Tensor, name: str = "maps") -> dict[str, np.ndarray]:
    """Maps (..., H, W) as float16, each with a largest magnitude of 1, and what they are to be multiplied by, (...).

    Half precision and not even steps: the least salient pixels keep their order, which the deletion game asks for.
    """
    scales = maps.abs().amax((-2, -1))
    shares = maps / torch.where(scales > 0, scales, 1)[..., None, None]
    return {name: shares.half().cpu().numpy(), f"{name}_scales": scales.cpu().numpy()}
