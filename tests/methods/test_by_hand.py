"""Explanations against values written out by hand, and a law that integrated gradients obey."""

import numpy as np
import pytest
import torch
from agreement import TARGETS, assert_agree
from stand_ins import TinyNetwork
from torch import Tensor, nn

from perceptual_lib.core.saliency import input_gradient
from perceptual_lib.methods import explain
from perceptual_lib.networks.classifier import Classifier


def test_integrated_gradients_are_complete(tiny: TinyNetwork, images: Tensor) -> None:
    """The mean gradient along the line from 0, times the image, is what the logit gains along it."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    targets = torch.tensor([0, 1, 2, 3])
    tiny.eval()
    mean = sum(
        weight / 2 * input_gradient(tiny, (node + 1) / 2 * images, targets)
        for node, weight in zip(nodes, weights, strict=True)
    )
    gain = (tiny(images) - tiny(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0]
    # The gradient has steps, at the ReLUs, which a sum over 100 places meets to within their distance.
    assert torch.allclose((mean * images).sum((1, 2, 3)), gain, rtol=0.02, atol=1e-3)
    assert_agree(explain(tiny, images, targets, method="integrated_gradients"), mean.abs().amax(1), 1e-6)


class TwoLayers(nn.Module):
    """A convolution of 1 x 1 to two channels, 3 x and 4 x, ReLU, and a linear layer on the eight values."""

    image = torch.tensor([[[[1.0, 2.0], [-1.0, 4.0]]]])

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.relu, self.head = nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Linear(8, 2)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[3, 0, 5, 1, -4, 2, 12, 1], [0, 0, 0, 0, 0, 0, 0, 1]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.convolution(images)).flatten(1))


def test_normgrad_by_hand() -> None:
    network = TwoLayers()
    # Place by place: activations (3, 4), (6, 8), (0, 0), (12, 16), of norm 5, 10, 0, 20;
    # the logit's gradients (3, -4), (0, 2), (5, 12), (1, 1), of norm 5, 2, 13, sqrt(2).
    expected = torch.tensor([[[25, 20], [0, 20 * 2**0.5]]])
    assert torch.allclose(explain(network, network.image, 0, method="normgrad"), expected)
    # The other class reads the second channel's last place alone: gradients 0, 0, 0, (0, 1).
    expected = torch.tensor([[[0.0, 0.0], [0.0, 20.0]]])
    assert torch.allclose(explain(network, network.image, 1, method="normgrad"), expected)


def test_selective_normgrad_by_hand() -> None:
    network = TwoLayers()
    # Products (9, -16), (0, 16), (0, 0), (12, 16); positive parts (9, 0), (0, 16), (0, 0), (12, 16).
    expected = torch.tensor([[[9.0, 16.0], [0.0, 20.0]]])
    assert torch.allclose(explain(network, network.image, 0, method="selective_normgrad"), expected)


def test_excitation_by_hand() -> None:
    """p_j = x_j sum_i w+_ij p_i / sum_k w+_ik x_k on one convolution of 1 x 1 and one linear layer."""
    network = TwoLayers()
    # Activations (3, 4), (6, 8), (0, 0), (12, 16); of the head's row [3 0 5 1; -4 2 12 1] the positive part times
    # these: (9, 0), (0, 16), (0, 0), (12, 16), which is 53 in all.
    expected = torch.tensor([[[9.0, 16.0], [0.0, 28.0]]]) / 53
    maps = explain(network, network.image, 0, method="excitation_backprop", layer="relu")
    assert torch.allclose(maps, expected)


def test_excitation_is_divided_where_a_residual_joins() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Linear(4, 9)
            nn.init.uniform_(self.branch.weight)
            nn.init.uniform_(self.head.weight)

        def forward(self, images: Tensor) -> Tensor:
            stem = self.relu(self.stem(images))
            branch = self.relu(self.branch(stem))
            branch += stem
            return self.head(branch.mean((2, 3)))

    torch.manual_seed(0)
    maps = explain(Residual(), torch.randn(2, 3, 8, 8), TARGETS, method="excitation_backprop", layer=0)
    assert torch.allclose(maps.sum((1, 2)), torch.ones(2))  # what starts at the class arrives, and once


@pytest.mark.parametrize("norm", [nn.LocalResponseNorm(3, alpha=1.0, k=2.0), nn.RMSNorm((8, 8)), nn.GroupNorm(2, 4)])
def test_normalization_passes_excitation_on_whole(norm: nn.Module) -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    nn.init.uniform_(head[2].weight)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), norm, nn.ReLU(), head)
    maps = explain(network, torch.randn(2, 3, 8, 8), TARGETS, method="excitation_backprop", layer=0)
    assert torch.allclose(maps.sum((1, 2)), torch.ones(2))


def test_excitation_on_the_embedded_network(embedded: Classifier, pictures: Tensor) -> None:
    maps = explain(embedded, pictures, TARGETS, method="excitation_backprop")
    others = explain(embedded, pictures, TARGETS + 100, method="excitation_backprop")
    assert (maps.amax((1, 2)) > 0).all() and (maps >= 0).all()
    assert ((maps - others).abs().amax((1, 2)) > 1e-3 * maps.amax((1, 2))).all()
    alone = explain(embedded, pictures[1:], TARGETS[1:], method="excitation_backprop")
    assert_agree(maps[1:], alone)


class Written(nn.Module):
    """One network in several ways of writing it: in place or not, and with other names for the same operations."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.way = way
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5, False)
        self.relu = nn.ReLU(inplace=way == "a module in place, twice looked at")

    def forward(self, images: Tensor) -> Tensor:
        values = self.first(images)
        if self.way == "a statement":
            values.relu_()
        else:
            values = values.relu()
        more = self.second(values)
        if self.way == "a sum as a statement":
            more.add_(values)
        else:
            more = more + values
        kept = more if self.way == "a module in place, twice looked at" else more.relu()
        last = self.relu(more) + kept
        if self.way == "sums and products":
            return (last.sum((2, 3)) / 100) @ self.head.weight.T
        return self.head(last.mean((2, 3)))


@pytest.mark.parametrize(
    "way", ["a statement", "a sum as a statement", "a module in place, twice looked at", "sums and products"]
)
@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deconvnet", "excitation_backprop"])
def test_a_map_does_not_depend_on_how_the_network_is_written(images: Tensor, method: str, way: str) -> None:
    settings = {"layer": 0} if method == "excitation_backprop" else {}
    found, expected = (explain(Written(each).double(), images, 1, method=method, **settings) for each in (way, "plain"))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("perceptual", {"sigma": None}),
        ("rise", {"samples": None, "cells": None}),
        ("extremal_perturbation", {"areas": None}),
    ],
)
def test_none_is_what_is_not_given(tiny: TinyNetwork, images: torch.Tensor, method: str, settings: dict) -> None:
    few = {"rise": {"batch_size": 400}, "extremal_perturbation": {"steps": 3}, "perceptual": {"max_iter": 3}}[method]
    found = explain(tiny, images, 1, method=method, **few, **settings)
    assert torch.equal(found, explain(tiny, images, 1, method=method, **few))
