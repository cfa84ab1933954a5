"""Two maps that do not depend on the network; a method that does not beat them explains nothing."""

import torch
from torch import Tensor, nn

from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.methods.registry import explainer


@explainer("blur_difference", source="this paper, Sec. 4.3")
def blur_difference(network: nn.Module, images: Tensor, targets: Tensor, *, sigma: float = 2.5) -> Tensor:
    """Length over the channels of the difference between the image and the blurred image: edges and texture."""
    lengths: Tensor = (images - gaussian_blur(images, sigma)).norm(dim=1)
    return lengths


@explainer("center", source="Zhang et al. 2018")
def center(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Largest in the middle of the image, falling with the distance from it."""
    batch, _, height, width = images.shape
    down, across = (
        torch.linspace(-1, 1, size, dtype=images.dtype, device=images.device) if size > 1 else images.new_zeros(1)
        for size in (height, width)
    )
    return (-(down[:, None] ** 2 + across**2)).exp().expand(batch, -1, -1).clone()
