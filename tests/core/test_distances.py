"""The distances of Eq. 5 against their definition, and what is left of it in memory."""

import gc

import pytest
import torch
from torch import nn

from perceptual_lib import perceptual_ball
from perceptual_lib.core.checks import ready
from perceptual_lib.core.graphs import Branches
from perceptual_lib.core.passes import Passes, WeightedDistance
from perceptual_lib.core.perturbation import Objective
from perceptual_lib.core.settings import Settings


def test_no_activation_waits_for_the_garbage_collector(tiny, images) -> None:
    def left() -> int:
        return sum(type(each).__name__ in ("Objective", "WeightedDistanceBackward") for each in gc.get_objects())

    gc.collect()
    before = left()  # errors that other tests have kept hold frames
    gc.disable()
    try:
        perceptual_ball(tiny, images, layers=[0, 1, 2], max_iter=3)
        assert left() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 6), (1, 3, 4, 4), (2,)])
@pytest.mark.parametrize("problems", [1, 2])
@pytest.mark.parametrize("room", [True, False])
def test_distance_against_its_definition(shape: tuple[int, ...], problems: int, room: bool) -> None:
    """A reference for each problem, or one for all; the second time into the room of the first."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_()
    reference = torch.randn(min(problems, len(value)), *shape[1:], dtype=torch.double, generator=generator)
    weights = torch.tensor([1.0, 3.0], dtype=torch.double)[: len(value)]
    plain = weights * (value - reference).square().reshape(len(value), -1).sum(1)
    (expected,) = torch.autograd.grad(plain.sum(), value)
    memory = torch.empty(0, dtype=torch.double) if room else None
    for _ in range(2):
        found = WeightedDistance.apply(value, reference, weights, memory, Branches(value.device))
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(torch.autograd.grad(found.sum(), value)[0], expected)


def test_distance_is_in_the_type_of_the_reference() -> None:
    value = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    distance = WeightedDistance.apply(value, torch.zeros(2, 3), torch.ones(2), None, Branches(value.device))
    assert distance.dtype == torch.float32
    assert torch.autograd.grad(distance.sum(), value)[0].dtype == torch.bfloat16


def test_kept_problems_are_the_same_problems(tiny, images) -> None:
    settings = Settings(layer_weight=0.3, normalize_layers=True)
    rows = torch.tensor([0, 2])
    with ready(tiny, images, None) as (inputs, _):
        for some, choices in ((inputs, ["0-2"]), (inputs[:1], [0, 1, "0-2"])):
            objective = Objective(Passes(tiny), some, None, choices, settings)
            points = 0.01 * torch.randn(len(objective.targets), some[0].numel(), dtype=torch.double)
            expected = [each[rows] for each in objective.evaluate(points)]
            objective.keep(rows)
            torch.testing.assert_close(list(objective.evaluate(points[rows])), expected)


def test_a_layer_that_is_zero_all_over_is_compared_as_it_is(tiny, images) -> None:
    class Dead(nn.Module):
        """A network with another activation that nothing reaches, whatever the image."""

        def __init__(self) -> None:
            super().__init__()
            self.network = tiny
            self.dead = nn.ReLU()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images) + self.dead(0 * images - 1).mean((1, 2, 3))[:, None]

    options = {"normalize_layers": True, "max_iter": 5}
    found = perceptual_ball(Dead(), images, layers=["0", "dead"], **options)
    assert torch.allclose(found.delta, perceptual_ball(tiny, images, layers=["0"], **options).delta)
