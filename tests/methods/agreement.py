"""What tests of agreement share: the classes explained, where networks end, and when two maps agree."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LAST = {"vgg16": "features.29", "vgg19_bn": "features.51", "efficientnet_lite0": "bn2"}
ROUNDING = 1e-4  # of the map's maximum
TARGETS = torch.tensor([3, 7])


def assert_agree(ours: Tensor, theirs: Tensor, tolerance: float = ROUNDING) -> None:
    """(B, H, W) each, relative to the largest value of each image. A Grad-CAM may be 0 all over; then both are."""
    assert ours.shape == theirs.shape
    largest = theirs.abs().amax((1, 2))
    assert (largest > 0).any()
    assert ((ours - theirs).abs().amax((1, 2)) <= tolerance * largest).all()


@contextmanager
def out_of_place(network: nn.Module) -> Iterator[None]:
    """captum's hooks fail on in-place ReLUs, and TorchRay's probe on a layer that one follows."""
    modules = [module for module in network.modules() if getattr(module, "inplace", False)]
    try:
        for module in modules:
            module.inplace = False
        yield
    finally:
        for module in modules:
            module.inplace = True
