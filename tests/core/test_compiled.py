"""Networks of `torch.compile`: what explains them calls what was compiled as it was written.

Its code calls no hooks that came after it (pytorch/pytorch#117758, #96722).
"""

import pytest
import torch
from stand_ins import TinyNetwork
from torch import Tensor, nn

from perceptual_lib import Classifier, class_gradient, explain, load_classifier, perceptual_ball


class Inside(TinyNetwork):
    @torch.compile(backend="eager")
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


def in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="eager")
    return network


def part(network: nn.Module) -> nn.Module:
    network.second = torch.compile(network.second, backend="eager")
    return network


def method(network: nn.Module) -> nn.Module:
    inside = Inside().double().eval()
    inside.load_state_dict(network.state_dict())
    return inside


def test_hooks_of_what_was_compiled_are_called(images) -> None:
    compiled = torch.compile(TinyNetwork().double(), backend="eager")
    compiled.register_forward_hook(lambda module, inputs, output: output.flip(1) * 3)
    leaf = images.clone().requires_grad_()
    logits = compiled.eval()(leaf)
    (expected,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    torch.testing.assert_close(explain(compiled, images, 0, method="gradient"), expected.abs().amax(1))
    assert torch.equal(perceptual_ball(compiled, images, max_iter=1).targets, logits.argmax(1))


WAYS = {
    "whole": lambda network: torch.compile(network, backend="eager"),
    "in place": in_place,
    "a part": part,
    "its forward": method,
    "in a classifier": lambda network: Classifier(torch.compile(network, backend="eager"), input_size=(12, 12)),
    "loaded": lambda network: load_classifier(torch.compile(network, backend="eager")),
}


@pytest.mark.parametrize("way", WAYS)
def test_maps_are_those_of_the_network_as_written(tiny: TinyNetwork, images, way) -> None:
    plain = TinyNetwork().double()
    plain.load_state_dict(tiny.state_dict())
    compiled = WAYS[way](tiny.eval())
    with torch.no_grad():
        compiled(images)  # now it is
    for name, settings in {
        "gradient": {},
        "guided_backprop": {},
        "grad_cam": {"layer": 1},
        "grad_cam ": {"layer": "relu"},
        "excitation_backprop": {"layer": 1},
        "perceptual": {"layers": 0, "max_iter": 3},
        "rise": {"samples": 5, "cells": 3},
    }.items():
        found, expected = (explain(each, images, method=name.strip(), **settings) for each in (compiled, plain))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(class_gradient(compiled, images), class_gradient(plain, images))
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), plain.eval()(images))


def test_the_compiler_works_again_afterwards(tiny: TinyNetwork, images) -> None:
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compiled = torch.compile(tiny, backend=backend)
    perceptual_ball(compiled, images, layers=0, max_iter=2)
    assert not calls
    with torch.no_grad():
        compiled(images)
    assert len(calls) == 1
