"""Modules that are called more than once in a pass: which call is looked at, and that it is said."""

import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from perceptual_lib import explain


def test_of_a_module_that_is_called_twice_the_first_call_is_looked_at_and_it_is_said(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    relu = nn.ReLU()
    network = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 4, 3),
            relu=relu,
            second=nn.Conv2d(4, 4, 3),
            again=relu,
            head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        )
    ).double()
    with pytest.warns(UserWarning, match="relu is called 2 times in a pass, and looked at is what it returns first"):
        first = explain(network, images, 1, method="grad_cam", layer="relu")
    assert torch.equal(first, explain(network, images, 1, method="grad_cam", layer=0))
    assert torch.equal(
        explain(network, images, 1, method="grad_cam", layer="relu_1"), explain(network, images, 1, method="grad_cam")
    )


def test_a_module_that_a_checkpoint_calls_again_is_called_once(images: torch.Tensor) -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return checkpoint(super().forward, images, use_reentrant=False)

    body = Checkpointed(OrderedDict(first=nn.Conv2d(3, 4, 3), relu=nn.ReLU()))
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain(network, images, 1, method="normgrad", layer="0.relu").any()


def test_a_network_that_looks_twice_is_looked_at_once_and_it_is_said(images: torch.Tensor) -> None:
    """The last time: at the mirrored image."""

    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            body = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
            self.inner = nn.Sequential(*body)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images) + self.inner(images.flip(3))

    torch.manual_seed(0)
    network = Mirrored().double()
    with pytest.warns(
        UserWarning, match="what computes inner.1_1 is called 2 times in a pass, and looked at is its last"
    ):
        found = explain(network, images, 1, method="grad_cam")
    torch.testing.assert_close(found, explain(network.inner, images.flip(3), 1, method="grad_cam"))
