"""The dominant component and the share inside, by hand."""

import numpy as np
import torch

from perceptual_lib.localization import dominant_component, share_inside

MAP = np.array(
    [
        [9, 0, 0, 0, 0],
        [0, 0, 4, 0, 0],
        [0, 0, 0, 5, 0],  # touches the 4 above by a corner
        [0, 0, 0, 6, 1],
        [0, 0, 0, 0, 0],
    ],
    dtype=float,
)


def test_largest_component_not_the_brightest() -> None:
    mask, box = dominant_component(MAP, 0.4)  # above 3.6: the 9 alone, and 4, 5, 6 by corners
    assert box == (2, 1, 3, 3)
    assert mask.sum() == 3 and not mask[0, 0]


def test_threshold_is_a_share_of_the_range() -> None:
    assert dominant_component(MAP + 100, 0.4)[1] == (2, 1, 3, 3)
    assert dominant_component(MAP, 0.9)[1] == (0, 0, 0, 0)


def test_constant_map_has_no_component() -> None:
    mask, box = dominant_component(np.ones((4, 4)), 0.5)
    assert box is None and not mask.any()


def test_share_inside() -> None:
    mask = np.zeros(MAP.shape, dtype=bool)
    mask[2:4, 3] = True
    assert share_inside(MAP, mask) == 11 / 25
    shares = share_inside(torch.from_numpy(np.stack([MAP, 0 * MAP, MAP])), [mask, mask, ~mask])
    assert shares[0] == 11 / 25 and np.isnan(shares[1]) and shares[2] == 14 / 25
