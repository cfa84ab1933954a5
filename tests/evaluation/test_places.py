"""The dominant component and the share inside, by hand."""

import numpy as np
import pytest
import torch

from perceptual_lib.evaluation.places import dominant_component, edge_mask, effective_share, extent, share_inside

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


def test_edges_of_a_square() -> None:
    picture = np.zeros((40, 40, 3))
    picture[10:30, 10:30] = 1
    edges = edge_mask(picture, 0.1)
    assert abs(edges.mean() - 0.1) < 0.02
    border = np.zeros((40, 40), dtype=bool)
    border[8:32, 8:32] = True
    border[12:28, 12:28] = False
    assert not edges[~border].any()


def test_texture_is_where_edges_are_many() -> None:
    picture = np.zeros((40, 40, 3))
    picture[:20, :20] = (np.indices((20, 20)) // 5).sum(0)[..., None] % 2  # a chequered quarter
    assert edge_mask(picture, 0.25, around=3.0)[2:13, 2:13].all()  # its even squares, too, where edges have gaps
    assert not edge_mask(picture, 0.25)[2:13, 2:13].all()


def test_how_far_a_map_reaches() -> None:
    maps = np.zeros((4, 8, 8))
    maps[0] = 1
    maps[1, 3, 5] = maps[2, [0, 0, 7, 7], [0, 7, 0, 7]] = 2  # a point, and the four corners
    assert effective_share(maps).tolist() == [1, 1 / 64, 4 / 64, 0]
    corners = 3.5 / np.sqrt((8**2 - 1) / 12)  # their distance from the centre along an axis, and that of an even map
    assert extent(maps)[:3].tolist() == pytest.approx([1, 0, corners]) and np.isnan(extent(maps)[3])
