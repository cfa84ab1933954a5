"""The distances of Eq. 5 against their definition, and what is left of them in memory."""

import gc

import torch

from perceptual_lib import perceptual_ball
from perceptual_lib.core.distances import SquaredDistance, WeightedDistance


def test_no_activation_waits_for_the_garbage_collector(tiny, images) -> None:
    gc.collect()
    gc.disable()
    try:
        perceptual_ball(tiny, images, layers=[0, 1, 2], max_iter=3)
        assert not any(type(found) is WeightedDistance for found in gc.get_objects())
    finally:
        gc.enable()


def test_squared_distance_against_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    value, reference = (torch.randn(2, 3, 4, 5, dtype=torch.double, generator=generator) for _ in range(2))
    scale = torch.tensor([2.0, 0.5], dtype=torch.double)
    value.requires_grad_()
    distance = SquaredDistance.apply(value, reference, scale, torch.empty_like(value))
    plain = scale * (value - reference).square().sum((1, 2, 3))
    torch.testing.assert_close(distance, plain)
    factors = torch.tensor([1.0, 3.0], dtype=torch.double)  # what lies behind need not weigh the images alike
    (gradient,) = torch.autograd.grad(distance, value, factors)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, value, factors)[0])
