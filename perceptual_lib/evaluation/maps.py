"""Unblurred maps of photographs by any method, and the form in which they are stored."""

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
    """Maps for the classes predicted for B pictures; method and settings are as for `explain`.

    Returns targets (B,), the predictions, and maps (B, H, W) with maps_scales (B,), as from `pack_maps`. All our own
    methods take their maps from one perturbation: maps is then its root mean square over the channels. It also gives
    guided (B, H, W) with guided_scales, and (B,) margin_before, margin, evaluations, converged, failed; becomes, the
    prediction for the changed image; cosine, that of the change with the margin's steepest descent; and growth, the
    relative change of the last activation divided by that of the pixels.
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
    """(B, H, W): what `explain` returns. Only our own methods get a sigma, 0 for no blur, and `margin` (multilabel)."""
    of_ours = {"sigma": 0.0, **margin} if find_method(method).ours else {}
    return explain(network, images, targets, method=method, **settings, **of_ours)


def pack_maps(maps: Tensor, name: str = "maps") -> dict[str, np.ndarray]:
    """Maps (..., H, W) as float16, each scaled to a largest magnitude of 1, and the factors (...) that undo this.

    In half precision, unlike in evenly spaced levels, the least salient pixels keep the order that deletion needs.
    """
    scales = maps.abs().amax((-2, -1))
    shares = maps / torch.where(scales > 0, scales, 1)[..., None, None]
    return {name: shares.half().cpu().numpy(), f"{name}_scales": scales.cpu().numpy()}
