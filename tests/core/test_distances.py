"""The perceptual term of Eq. 5 against its definition, and what is left of it in memory."""

import gc

import pytest
import torch

from perceptual_lib import perceptual_ball
from perceptual_lib.core.distances import Difference, PerceptualTerm


def test_no_activation_waits_for_the_garbage_collector(tiny, images) -> None:
    gc.collect()
    gc.disable()
    try:
        perceptual_ball(tiny, images, layers=[0, 1, 2], max_iter=3)
        left = [found for found in gc.get_objects() if type(found) is PerceptualTerm]
        assert not left
        assert not any(type(found).__name__ == "DifferenceBackward" for found in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("shared", [False, True])
def test_term_against_its_definition(shared: bool) -> None:
    """Several layers, of several shapes; a reference for each problem, or one for all."""
    generator = torch.Generator().manual_seed(0)
    shapes = {1: (2, 3, 4, 5), 4: (2, 6)}
    values, references = (
        {layer: torch.randn(shape, dtype=torch.double, generator=generator) for layer, shape in shapes.items()}
        for _ in range(2)
    )
    if shared:
        references = {layer: each[:1] for layer, each in references.items()}
    scales = torch.tensor([[2.0, 0.5], [0.0, 3.0]], dtype=torch.double)
    factors = torch.tensor([1.0, 3.0], dtype=torch.double)  # what lies behind need not weigh the problems alike
    for value in values.values():
        value.requires_grad_()
    plain = sum(
        scale * (values[layer] - references[layer]).square().flatten(1).sum(1)
        for layer, scale in zip(shapes, scales, strict=True)
    )
    expected = torch.autograd.grad(plain, list(values.values()), factors)
    term = PerceptualTerm(references, scales)
    for _ in range(2):  # the second time into the rooms of the first
        found = term([measure(values[layer]) for layer, measure in term.measures.items()])
        torch.testing.assert_close(found, plain)
        for ours, theirs in zip(torch.autograd.grad(found, list(values.values()), factors), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_difference_gives_back_the_type_of_the_value() -> None:
    value = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    difference = Difference.apply(value, torch.zeros(2, 3), None)
    assert difference.dtype == torch.float32
    assert torch.autograd.grad(difference.sum(), value)[0].dtype == torch.bfloat16


def test_kept_problems_are_the_same_problems() -> None:
    generator = torch.Generator().manual_seed(0)
    references = {0: torch.randn(3, 4, generator=generator), 1: torch.randn(1, 5, generator=generator)}
    term = PerceptualTerm(references, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    values = [torch.randn(3, 4, generator=generator), torch.randn(3, 5, generator=generator)]

    def of(term: PerceptualTerm, rows: list[int]) -> torch.Tensor:
        return term([measure(value[rows]) for measure, value in zip(term.measures.values(), values, strict=True)])

    rows = [0, 2]
    assert torch.equal(of(term.keep(torch.tensor(rows)), rows), of(term, [0, 1, 2])[rows])
