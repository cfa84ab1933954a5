"""What is asked of images before anything is computed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceptual_lib.core.checks import all_finite

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@given(st.integers(0, 4_999), st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0]), st.sampled_from(DTYPES))
def test_one_value_that_is_not_finite_is_seen_wherever_it_stands(place: int, value: float, dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 5_000, dtype=dtype)
    values[place] = value
    assert all_finite(values.view(2, 50, 50)) == bool(values.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_finite(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    assert all_finite(torch.tensor([limits.max, limits.min], dtype=dtype).repeat(1_000))
