"""Measures of a change by hand."""

import numpy as np
import pytest

from perceptual_lib.evaluation.change import protocol


def test_measures_of_a_perturbation_by_hand() -> None:
    """Of 4 x 4 pixels two change by 3, one of them inside the box of two rows; and none at all."""
    maps = np.zeros((2, 4, 4), dtype=np.float16)
    maps[0, 0, 0] = maps[0, 3, 3] = 1
    facts = dict.fromkeys(["margin_before", "margin", "cosine", "growth"], np.ones(2))
    needed = {"maps": maps, "maps_scales": np.array([3.0, 0.0])} | facts
    found = protocol.compute(None, None, needed=needed, array="maps", unit=10.0, boxes=[[(0, 0, 3, 1)], [(0, 0, 0, 0)]])
    assert found["inside"].tolist() == [0.5, 0.0] and found["area"].tolist() == [0.5, 1 / 16]
    assert found["size"].tolist() == pytest.approx([10 * np.sqrt(2 * 9 / 16), 0])
    assert found["largest"].tolist() == [30, 0] and found["spread"].tolist() == pytest.approx([2 / 16, 0])
    assert found["blurred_spread"][0] > 0.9  # in a frame smaller than the blur


def test_what_lies_near_the_box() -> None:
    """A frame of 16 x 16, a box of its middle 4 x 4: an eighth of the side around it are 8 x 8 less 4 x 4 pixels."""
    maps = np.zeros((1, 16, 16), dtype=np.float16)
    maps[0, [7, 4, 0], 7] = 1  # inside, near, far
    facts = dict.fromkeys(["margin_before", "margin", "cosine", "growth", "maps_scales"], np.ones(1))
    found = protocol.compute(needed={"maps": maps} | facts, array="maps", unit=1.0, boxes=[[(6, 6, 9, 9)]])
    assert found["near"].tolist() == [0.5] and found["near_area"].tolist() == [48 / 240]
