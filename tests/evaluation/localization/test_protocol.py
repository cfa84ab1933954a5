"""Weak localization: boxes against a plain loop over SciPy's labels, IoU and the choice of alpha by hand."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stand_ins import Layered

from benchmarks.peers import plain_boxes
from perceptual_lib import InputError, load_classifier
from perceptual_lib.evaluation.localization.protocol import (
    ALPHAS,
    STRATEGY_COLUMNS,
    THRESHOLDS,
    best_column,
    box_iou,
    component_boxes,
    compute,
    cut,
    held_out_hits,
    is_hit,
    localize,
)
from perceptual_lib.evaluation.places import edge_mask, scale_and_blur

EMPTY = (0, 0, -1, -1)


def assert_same_as_loop(maps: np.ndarray) -> None:
    maps = np.asarray(maps, dtype=np.float32)
    assert np.array_equal(component_boxes(maps), [plain_boxes(saliency) for saliency in maps])


def blurred(sigma: float, height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.abs(np.random.default_rng(seed).standard_normal((2, height, width)))
    return scale_and_blur(torch.from_numpy(noise).float(), sigma).numpy()


def test_grids() -> None:
    assert ALPHAS["value"] == pytest.approx(np.linspace(0.05, 1, 20))
    assert ALPHAS["percent"] == pytest.approx(np.linspace(0.05, 1, 20))
    assert ALPHAS["mean"] == pytest.approx(np.linspace(0.05, 10.5, 210))
    for strategy, grid in ALPHAS.items():
        assert THRESHOLDS[STRATEGY_COLUMNS[strategy]] == tuple((strategy, alpha) for alpha in grid)
    assert THRESHOLDS[STRATEGY_COLUMNS["best"]] == THRESHOLDS and len(THRESHOLDS) == 250


@pytest.mark.parametrize("sigma", [0, 1, 3, 20])
@pytest.mark.parametrize("size", [(61, 40), (40, 61)], ids=str)
def test_boxes_of_rough_and_smooth_maps(sigma: float, size: tuple[int, int]) -> None:
    assert_same_as_loop(blurred(sigma, *size))


def test_boxes_at_full_size() -> None:
    assert_same_as_loop(blurred(2, 224, 224)[:1])


def test_boxes_of_a_map_mostly_zero() -> None:
    maps = blurred(0, 50, 50)
    assert_same_as_loop(np.where(np.random.default_rng(1).random(maps.shape) < 0.1, maps, 0))


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(1, 12), width=st.integers(1, 12), levels=st.sampled_from([2, 3, 5, 20]), seed=st.integers(0, 999)
)
def test_boxes_of_maps_with_plateaus(height: int, width: int, levels: int, seed: int) -> None:
    """Whole steps of the grid, so that values also equal thresholds, and many components of one size."""
    assert_same_as_loop(np.random.default_rng(seed).integers(0, levels + 1, (1, height, width)) / levels)


@pytest.mark.parametrize("value", [0, 0.3, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (6, 9)], ids=str)
def test_constant_maps(value: float, size: tuple[int, int]) -> None:
    maps = np.full((1, *size), value)
    assert_same_as_loop(maps)
    whole = (0, 0, size[1] - 1, size[0] - 1)
    assert (component_boxes(maps)[0, STRATEGY_COLUMNS["percent"]] == whole).all()


def test_negative_zero_is_zero() -> None:
    maps = np.array([[[-0.0, 0.0, 1.0, -0.0]]])
    assert_same_as_loop(maps)


def test_cuts_by_hand() -> None:
    saliency = np.array(
        [
            [1.0, 0, 0, 0, 0],
            [0, 0, 0.4, 0, 0],
            [0, 0, 0, 0.5, 0],  # touches the 0.4 above by a corner
            [0, 0, 0, 0.5, 0.1],
        ]
    )  # 20 pixels, mean 0.125
    boxes = dict(zip(THRESHOLDS, component_boxes(saliency[None])[0].tolist(), strict=True))
    assert boxes["value", 0.05] == [2, 1, 4, 3]  # four pixels rather than the largest value
    assert boxes["value", 0.4] == [3, 2, 3, 3]  # above, not at
    assert boxes["value", 0.5] == [0, 0, 0, 0]
    assert boxes["value", 1.0] == [0, 0, -1, -1]
    assert boxes["percent", 0.05] == [0, 0, 0, 0]  # one pixel
    assert boxes["percent", 0.1] == [3, 2, 3, 3]  # two pixels, the second tied with a third
    assert boxes["percent", 0.2] == [2, 1, 3, 3]
    assert boxes["percent", 0.3] == [0, 0, 4, 3]  # six pixels, tied with all zeros
    assert boxes["mean", 0.8] == [2, 1, 3, 3]  # above 0.1
    assert boxes["mean", 4.0] == [0, 0, 0, 0]  # above 0.5
    assert boxes["mean", 8.0] == [0, 0, -1, -1]


def test_the_first_of_two_components_of_a_size() -> None:
    saliency = np.zeros((1, 4, 7))
    saliency[0, 0, 4:6] = saliency[0, 1:3, 0] = saliency[0, 3, 5:7] = 1  # two pixels each
    assert component_boxes(saliency)[0, 0].tolist() == [4, 0, 5, 0]


def test_scale_comes_before_blur() -> None:
    maps = torch.tensor([[[2.0, 2, 4, 2, 2]], [[7.0, 7, 7, 7, 7]]])
    sharp, soft = scale_and_blur(maps), scale_and_blur(maps, 1)
    assert sharp[0].tolist() == [[0, 0, 1, 0, 0]] and not sharp[1].any()
    expected = ndimage.gaussian_filter1d(np.array([0, 0, 1.0, 0, 0]), 1)
    assert soft[0, 0].numpy() == pytest.approx(expected) and not soft[1].any()


@pytest.mark.parametrize(
    ("box", "other", "iou"),
    [
        ((3, 4, 10, 20), (3, 4, 10, 20), 1),
        ((5, 5, 5, 5), (5, 5, 5, 5), 1),  # one pixel has an area
        ((0, 0, 9, 9), (1, 0, 10, 9), 90 / 110),
        ((0, 0, 9, 9), (5, 5, 14, 14), 25 / 175),
        ((0, 0, 9, 9), (9, 9, 18, 18), 1 / 199),  # share a pixel
        ((0, 0, 9, 9), (10, 0, 19, 9), 0),  # side by side
        ((0, 0, 9, 9), (0, 0, 4.5, 9), 55 / 100),
        (EMPTY, (0, 0, 9, 9), 0),
    ],
)
def test_iou_by_hand(box: tuple, other: tuple, iou: float) -> None:
    assert box_iou([box], [other]) == pytest.approx(iou)
    assert box_iou([other, other], [box, box, box]) == pytest.approx(np.full((2, 3), iou))


def test_the_best_box_counts_and_an_empty_cut_fails() -> None:
    saliency = np.zeros((1, 8, 8))
    saliency[0, 2:4, 2:6] = 1
    iou = localize(saliency, [[(0, 0, 1, 1), (2, 2, 5, 3), (2, 2, 5, 5)]])
    assert iou.shape == (1, 250)
    assert iou[0, STRATEGY_COLUMNS["value"]].tolist() == [1] * 19 + [0]  # nothing is above 1
    assert localize(saliency, [[(2, 2, 5, 5)]])[0, 0] == 0.5
    assert is_hit(iou[0, :20]).tolist() == [True] * 19 + [False] and is_hit(np.array([0.5, 0.4999])).tolist() == [1, 0]


def test_each_map_has_its_boxes_and_tensors_do() -> None:
    maps = blurred(3, 20, 30)
    boxes = [[(0, 0, 12.5, 11)], [(3, 2, 20, 19), (0, 0, 29, 19)]]
    together = localize(torch.from_numpy(maps), boxes)
    assert np.array_equal(together, np.concatenate([localize(maps[k : k + 1], boxes[k : k + 1]) for k in range(2)]))


HITS = np.array(  # three thresholds for six images
    [
        [1, 0, 0],
        [0, 1, 0],
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [0, 1, 1],
    ],
    dtype=bool,
)


def test_held_out_by_hand() -> None:
    assert best_column(HITS) == 0  # three hits, as the second has
    assert held_out_hits(HITS).tolist() == [0] * 6  # the even images choose the first, which fails all the odd ones
    assert held_out_hits(HITS[:, 2:]).tolist() == HITS[:, 2].tolist()


def test_held_out_is_honest_where_the_best_is_luck() -> None:
    hits = np.random.default_rng(0).random((1000, 250)) < 0.5
    assert hits[:, best_column(hits)].mean() > 0.53
    assert held_out_hits(hits).mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("maps", "boxes", "message"),
    [
        (np.zeros((4, 4)), [[(0, 0, 1, 1)]], "shape"),
        (np.zeros((1, 0, 4)), [[(0, 0, 1, 1)]], "shape"),
        (np.full((1, 4, 4), np.nan), [[(0, 0, 1, 1)]], "finite"),
        (np.full((1, 4, 4), -1.0), [[(0, 0, 1, 1)]], "at least 0"),
        (np.zeros((2, 4, 4)), [[(0, 0, 1, 1)]], "2 maps and boxes for 1"),
        (np.zeros((1, 4, 4)), [[]], "at least one box"),
        (np.zeros((1, 4, 4)), [(0, 0, 1, 1)], "at least one box"),
        (np.zeros((1, 4, 4)), [[(3, 0, 2, 1)]], "right above left"),
        (np.zeros((1, 4, 4)), [[(0, 0, np.inf, 1)]], "finite"),
    ],
)
def test_bad_input(maps: np.ndarray, boxes: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        localize(maps, boxes)


def test_an_unknown_strategy_cuts_nothing() -> None:
    with pytest.raises(InputError, match="no strategy 'nonsense'; there are value, percent, mean"):
        cut(np.zeros((4, 4)), "nonsense", 1.0)


def test_one_image_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match="two or more"):
        held_out_hits(HITS[:1])


def test_the_compiler_is_imported_only_when_maps_are_cut() -> None:
    code = "import sys, perceptual_lib.evaluation.localization.protocol; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("strategy", ["value", "percent", "mean"])
def test_a_cut_that_is_shown_is_the_cut_that_is_scored(strategy: str) -> None:
    saliency = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    boxes = component_boxes(saliency[None])[0]
    for (name, alpha), (left, top, right, bottom) in zip(THRESHOLDS, boxes.tolist(), strict=True):
        if name == strategy:
            labels, count = ndimage.label(cut(saliency, strategy, alpha), np.ones((3, 3)))
            largest = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()] if count else None
            expected = (slice(top, bottom + 1), slice(left, right + 1)) if right >= 0 else None
            assert largest == expected


def test_what_a_map_lies_on(of_profiles) -> None:
    classifier, picture = load_classifier(Layered()), of_profiles[0]
    edges = edge_mask(classifier.pixels(classifier.preprocess([picture]))[0])
    spiky = edges.astype(np.float16)
    spiky[np.nonzero(edges)[0][0], np.nonzero(edges)[1][0]] = 1000
    given = {"needed": {"maps": np.stack([edges, ~edges, spiky]).astype(np.float16)}, "boxes": [[(0, 0, 9, 9)]] * 3}
    raw, grey = (compute(classifier, [picture] * 3, array="maps", sigmas=[0.0], grey=grey, **given) for grey in (0, 1))
    assert raw["edges"][:, 0].tolist() == [1, 0, 1] and raw["spread"][2, 0] < 1e-3
    share = edges.mean()
    assert grey["spread"][:, 0].tolist() == pytest.approx([share, 1 - share, share], rel=1e-3)  # the spike is clipped
