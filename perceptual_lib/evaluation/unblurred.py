"""Maps by any method, the paper's own among them with all of their settings."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from perceptual_lib.core.perturbation import perceptual_ball
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.methods.registry import explain

OWN = ("no_perceptual", "perceptual")


def unblurred_maps(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    settings: Mapping[str, Any],
    *,
    multilabel: bool = False,
) -> Tensor:
    """(B, H, W): the size of the perturbation for the paper's own methods, for others what `explain` returns.

    Args:
        network, images (B, C, H, W), targets (B,): as for either.
        method: by its name.
        settings: of `perceptual_ball` for the paper's own, else the method's keyword arguments.
        multilabel: of `perceptual_ball`.
    """
    if method in OWN:
        return saliency_map(perceptual_ball(network, images, targets, multilabel=multilabel, **settings).delta)
    return explain(network, images, targets, method=method, **settings)
