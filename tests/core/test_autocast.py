"""Inside a caller's `torch.autocast` the network computes in reduced precision, and nothing else does."""

from collections.abc import Callable

import pytest
import torch
from passes import folded
from stand_ins import QUICK, TinyNetwork
from torch import Tensor, nn

from perceptual_lib import explain, perceptual_ball
from perceptual_lib.core.folding import find_folds
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.lbfgs import minimize
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.saliency import gaussian_blur, relative_changes
from perceptual_lib.evaluation.insertion_deletion.protocol import impulse_blur, insertion_deletion
from perceptual_lib.methods import METHODS


class Untouched(nn.Module):
    """Nothing but functions that autocast leaves alone: what is computed of it is the same inside and outside."""

    def forward(self, images: Tensor) -> Tensor:
        return images.relu().square().mean((2, 3))


class Reduced(TinyNetwork):
    """Convolutions and a batch norm, with a note of the types of what it returned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.returned: set[torch.dtype] = set()

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.returned.add(logits.dtype)
        return logits


def inside(function: Callable, *arguments, **settings):
    with torch.autocast("cpu", torch.bfloat16):
        return function(*arguments, **settings)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [(), 0])
def test_search(images: Tensor, layers) -> None:
    arguments = Untouched(), images, None, layers
    outer, inner = perceptual_ball(*arguments, max_iter=12), inside(perceptual_ball, *arguments, max_iter=12)
    assert torch.equal(inner.delta, outer.delta) and torch.equal(inner.margin, outer.margin)


def test_search_with_reduced_passes(images: Tensor) -> None:
    network, settings = Reduced(), {"layers": "0-2", "normalize_layers": True, "layer_weight": 1.0}
    result = inside(perceptual_ball, network, images, **settings, max_iter=3)
    assert torch.bfloat16 in network.returned
    assert {value.dtype for value in (result.delta, result.margin, result.margin_before)} == {torch.float32}
    steps = (
        inside(perceptual_ball, network, images, **settings, max_iter=1),
        perceptual_ball(network, images, **settings, max_iter=1),
    )
    assert torch.cosine_similarity(*(step.delta.flatten(1) for step in steps)).min() > 0.99


def test_steps_of_the_optimizer() -> None:
    class Valley:
        curvature = torch.logspace(0, 2, 50)

        def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
            return (self.curvature * points.square()).sum(1) / 2, self.curvature * points

        def keep(self, rows: Tensor) -> None:
            pass

    start = torch.ones(1, 50)
    assert torch.equal(
        inside(minimize, Valley(), start, max_iter=20).points, minimize(Valley(), start, max_iter=20).points
    )


@pytest.mark.parametrize("blur", [gaussian_blur, impulse_blur])
def test_blurs(images: Tensor, blur) -> None:
    assert torch.equal(inside(blur, images, 2.0), blur(images, 2.0))


def test_games(images: Tensor) -> None:
    maps = images.mean(1)
    expected = insertion_deletion(Untouched(), images, maps, step=200)
    found = inside(insertion_deletion, Untouched(), images, maps, step=200)
    assert torch.equal(found.curves, expected.curves) and torch.equal(found.areas, expected.areas)
    network = Reduced()
    assert inside(insertion_deletion, network, images, maps, step=200).curves.dtype == torch.float32
    assert network.returned >= {torch.bfloat16}


@pytest.mark.parametrize("method", METHODS)
def test_maps(images: Tensor, method: str) -> None:
    settings = {"method": method, **QUICK.get(method, {})}
    assert torch.equal(inside(explain, Untouched(), images, 1, **settings), explain(Untouched(), images, 1, **settings))
    assert inside(explain, Reduced(), images, 1, **settings).dtype == torch.float32


def test_changes_of_the_activations(images: Tensor) -> None:
    assert inside(relative_changes, Reduced(), images, 0.1 * images).dtype == torch.float32


def test_folds_are_found_in_full_precision(images: Tensor) -> None:
    network = Reduced()
    with freeze(network):
        expected, folds = find_folds(network, images), inside(find_folds, network, images)
        first, other = (next(filter(None, each)).instead["weight"] for each in (folds, expected))
        assert folded(network, images) == 1 and torch.equal(first, other)
        assert network.returned == {torch.float32}
        inside(Passes(network), images)
    assert network.returned == {torch.float32, torch.bfloat16}
