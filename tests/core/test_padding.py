"""Padding that a depthwise convolution does itself: where it is left out, and that nothing else changes."""

import pytest
import torch
from passes import assert_alike, unsettled
from torch import nn
from torch.nn import functional as F

from perceptual_lib.core.folding import find_folds, fold
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.passes import Passes


def padded(network: nn.Module, images: torch.Tensor) -> int:
    """How often a folded pass pads."""
    leaf = images.clone().requires_grad_()
    with torch.enable_grad(), fold(find_folds(network, images)):
        nodes, met = [network(leaf).grad_fn], set()
    while nodes:
        node = nodes.pop()
        nodes += [each for each, _ in node.next_functions if each is not None and each not in met]
        met.add(node)
    return sum("Pad" in node.name() for node in met)


class Padded(nn.Module):
    """A depthwise convolution behind padding, or something like it, and a batch norm."""

    def __init__(self, case: str = "plain", amounts: tuple[int, ...] = (0, 1, 0, 1), kernel=3, stride=2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.amounts = case, amounts
        groups, dilation = 1 if case == "dense" else 6, 2 if case == "dilated" else 1
        self.before = nn.Conv2d(3, 6, 3, bias=False)
        self.convolution = nn.Conv2d(6, 6, kernel, stride, groups=groups, dilation=dilation)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = 2 * self.norms[0](self.before(images))
        mode, filling = "reflect" if self.case == "reflected" else "constant", float(self.case == "ones")
        amounts = (1, 1, 1, 1) if self.case == "looks" and images.mean() > 0.5 else self.amounts
        padded = F.pad(value, amounts, mode, filling)
        if self.case == "written":
            value += 1
        before, value = value, self.convolution(padded)
        if self.case == "written later":
            before += 1
            return value.mean((2, 3)) + before.amax((2, 3))
        if self.case == "shared":
            return value.mean((2, 3)) + padded.amax((2, 3))
        return (value if self.case == "no norm" else self.norms[1](value)).relu().mean((2, 3))


@pytest.mark.parametrize("amounts", [(0, 1, 0, 1), (1, 2, 1, 2), (2, 0, 1, 3), (0, 0, 0, 0), (2, 2, 1, 1)])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (5, 2), ((3, 2), (1, 3))])
def test_padding_is_left_out(amounts, kernel, stride) -> None:
    network = unsettled(Padded("plain", amounts, kernel, stride))
    images = torch.randn(2, 3, 17, 14, dtype=torch.double)
    with freeze(network):
        assert padded(network, images) == 0
        assert_alike(Passes(network), network, images)


@pytest.mark.parametrize(
    "case, is_left_out",
    {
        "no norm": True,
        "dense": False,
        "dilated": False,
        "shared": False,
        "reflected": False,
        "ones": False,
        "written": False,
        "written later": False,
        "looks": True,
    }.items(),
)
def test_which_padding_is_left_out(case: str, is_left_out: bool) -> None:
    """`written`: over what was padded, before the convolution. `looks`: bright pictures are padded otherwise."""
    network = unsettled(Padded(case))
    dark, bright = torch.zeros(1, 3, 14, 14).double(), torch.ones(1, 3, 14, 14).double()
    with freeze(network):
        assert (padded(network, dark) == 0) == is_left_out
        quick = Passes(network)
        for images in (dark, bright):
            assert_alike(quick, network, images)


def test_padding_of_the_embedded_network(embedded) -> None:
    """Four of its depthwise convolutions step by two and are padded at the right and at the bottom more."""
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with freeze(embedded), torch.no_grad():
        assert padded(embedded, images) == 1  # before the first convolution
        assert torch.allclose(Passes(embedded)(images), embedded(images), rtol=0, atol=1e-3)


def test_a_part_in_inference_mode() -> None:
    class Inside(Padded):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return super().forward(images)

    network, images = unsettled(Inside()), torch.randn(2, 3, 14, 14, dtype=torch.double)
    with torch.no_grad(), freeze(network):
        assert torch.allclose(Passes(network)(images), network(images), rtol=0, atol=1e-12)
