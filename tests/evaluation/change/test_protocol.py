"""Measures of a change by hand."""

import numpy as np
import pytest

from perceptual_lib.evaluation.change import protocol


def test_measures_of_a_perturbation_by_hand() -> None:
    """Of 4 x 4 pixels two change by 3, one of them inside the box of two rows; and none at all."""
    maps = np.zeros((2, 4, 4), dtype=np.float16)
    maps[0, 0, 0] = maps[0, 3, 3] = 1
    needed = {"maps": maps, "maps_scales": np.array([3.0, 0.0]), "margin_before": np.ones(2), "margin": np.zeros(2)}
    found = protocol.compute(None, None, needed=needed, array="maps", unit=10.0, boxes=[[(0, 0, 3, 1)], [(0, 0, 0, 0)]])
    assert found["inside"].tolist() == [0.5, 0.0] and found["area"].tolist() == [0.5, 1 / 16]
    assert found["size"].tolist() == pytest.approx([10 * np.sqrt(2 * 9 / 16), 0])
    assert found["spread"].tolist() == pytest.approx([2 / 16, 0])
