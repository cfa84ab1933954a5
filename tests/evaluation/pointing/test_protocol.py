"""The pointing game: against TorchRay's, a plain loop over pixels, and cases by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from perceptual_lib import InputError
from perceptual_lib.evaluation.pointing.protocol import TOLERANCE, class_mean, count_hits, distances, maxima
from perceptual_lib.evaluation.statistics import bootstrap
from perceptual_lib.evaluation.tables import difference_estimate

HEIGHT, WIDTH = 40, 60


def random_boxes(generator: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """One to three boxes, also of one pixel and at the border."""
    corners = generator.integers(0, (WIDTH, HEIGHT), (generator.integers(1, 4), 2, 2))
    return [(*low, *high) for low, high in zip(corners.min(1).tolist(), corners.max(1).tolist(), strict=True)]


def region(boxes: list) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top : bottom + 1, left : right + 1] = True
    return mask


def random_maps(count: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(0))


# --- where the maximum is ------------------------------------------------------------------------------------


def test_blur_comes_before_the_resize() -> None:
    maps = random_maps(3, 20, 30).double()
    points = maxima(maps, (HEIGHT, WIDTH), [0, 1.5, 40])
    assert points.shape == (3, 3, 2) and points.dtype == np.int64
    for saliency, of_map in zip(maps.numpy(), points, strict=True):
        for sigma, (column, row) in zip([0, 1.5, 40], of_map, strict=True):
            blurred = torch.from_numpy(gaussian_filter(saliency, sigma) if sigma else saliency)[None, None]
            large = torch.nn.functional.interpolate(blurred, (HEIGHT, WIDTH), mode="bilinear")[0, 0]
            assert large[row, column].item() == pytest.approx(large.max().item(), rel=1e-9)


def test_smoothing_comes_after_the_resize_and_repeats_the_border() -> None:
    """By 0.05 of 60 pixels: a Gaussian of 3, over 12 pixels to each side; the picture's last lines go on for ever."""
    maps = random_maps(8, 20, 30)
    maps[0, 0, 0] = maps[1, -1, 12] = 3.0  # at a border, which then counts more than once
    large = torch.nn.functional.interpolate(maps[:, None], (HEIGHT, WIDTH), mode="bilinear")[:, 0].double().numpy()
    kernel = np.exp(-((np.arange(-12, 13) / 3) ** 2) / 2)
    kernel /= kernel.sum()
    points = maxima(maps, (HEIGHT, WIDTH), smooth=0.05)[:, 0]
    for map, point in zip(large, points, strict=True):
        padded = np.pad(map, 12, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (25, 25))
        smooth = np.einsum("ijkl,k,l->ij", windows, kernel, kernel)
        assert tuple(point) == np.unravel_index(smooth.argmax(), smooth.shape)[::-1]
    assert points[0].tolist() == [0, 0] and points[1][1] == HEIGHT - 1


def test_smoothing_is_torchrays() -> None:
    utils = pytest.importorskip("torchray.utils")
    maps = random_maps(20)
    theirs = utils.imsmooth(maps[:, None], sigma=0.02 * WIDTH, padding_mode="replicate").flatten(1).argmax(1).numpy()
    points = maxima(maps, (HEIGHT, WIDTH), smooth=0.02)[:, 0]
    assert (points == np.stack([theirs % WIDTH, theirs // WIDTH], 1)).all()
    assert (points != maxima(maps, (HEIGHT, WIDTH))[:, 0]).any()


def test_maximum_of_a_resized_map_by_hand() -> None:
    maps = torch.zeros(2, 2, 3)
    maps[0, 1, 2] = maps[1, 0, 1] = 1
    # Columns 1, 4 and 7 of nine lie on those of three; the first and the last pixels of a line repeat its ends.
    assert maxima(maps, (4, 9))[:, 0].tolist() == [[7, 3], [4, 0]]


def test_the_first_of_equals_in_row_order() -> None:
    maps = torch.zeros(3, HEIGHT, WIDTH)
    maps[0, 5, 50] = maps[0, 6, 2] = maps[0, 5, 51] = 1
    maps[1, -1, -1] = maps[1, -1, -2] = 1
    assert maxima(maps, (HEIGHT, WIDTH))[:, 0].tolist() == [[50, 5], [WIDTH - 2, HEIGHT - 1], [0, 0]]


@pytest.mark.parametrize("maps", [torch.zeros(4, 4), torch.zeros(1, 0, 4), torch.full((1, 4, 4), torch.nan)])
def test_bad_maps(maps: Tensor) -> None:
    with pytest.raises(InputError, match="finite"):
        maxima(maps, (4, 4))


@pytest.mark.parametrize("maps", [torch.zeros(1, 4, 4, dtype=torch.long), np.zeros((1, 4, 4))])
def test_maps_of_another_type(maps: Tensor | np.ndarray) -> None:
    with pytest.raises(InputError, match="tensor of floating point"):
        maxima(maps, (20, 20))


@pytest.mark.parametrize(("size", "sigmas"), [((4, 4), []), ((0, 4), [0.0])])
def test_no_blur_and_no_picture(size: tuple[int, int], sigmas: list[float]) -> None:
    with pytest.raises(InputError, match="a sigma or more"):
        maxima(torch.zeros(1, 4, 4), size, sigmas)


# --- whether it is a hit -------------------------------------------------------------------------------------


def test_distance_to_the_nearest_pixel_of_the_region() -> None:
    generator = np.random.default_rng(0)
    rows, columns = np.indices((HEIGHT, WIDTH))
    for _ in range(20):
        boxes = random_boxes(generator)
        found = distances(np.stack([columns, rows], -1), boxes)
        assert found == pytest.approx(distance_transform_edt(~region(boxes)))


@pytest.mark.parametrize("boxes", [[], [(0, 0, 1)], (0, 0, 1, 1)])
def test_bad_boxes(boxes: list) -> None:
    with pytest.raises(InputError, match="at least one box"):
        distances((0, 0), boxes)
    with pytest.raises(InputError, match="right above left"):
        distances((5, 5), [(9, 9, 2, 3)])


# --- the mean over classes -----------------------------------------------------------------------------------

HITS = np.array([1, 1, 0, 0, 1, 1], dtype=bool)
PICTURES = ["a", "a", "b", "b", "c", "d"]
CLASSES = [7, 3, 7, 3, 7, 5]  # of class 7 two of three, of 3 one of two, of 5 all


def test_mean_over_classes_by_hand() -> None:
    table = count_hits(HITS, PICTURES, CLASSES)
    assert table.tolist() == [  # classes 3, 5, 7
        [[1, 1], [0, 0], [1, 1]],
        [[0, 1], [0, 0], [0, 1]],
        [[0, 0], [0, 0], [1, 1]],
        [[0, 0], [1, 1], [0, 0]],
    ]
    estimate = bootstrap(table, class_mean)
    assert estimate.value == pytest.approx((2 / 3 + 1 / 2 + 1) / 3) and estimate.n == 4
    absent = bootstrap(count_hits(HITS, PICTURES, CLASSES, among=[9, 7, 5, 3]), class_mean)
    assert absent.value == pytest.approx(estimate.value * 3 / 4)
    share = bootstrap(count_hits(HITS, PICTURES, np.zeros(6, int)), class_mean)
    assert share.value == pytest.approx(4 / 6)


def test_each_blur_has_its_own_mean() -> None:
    hits = np.stack([HITS, ~HITS, np.ones(6, bool)], 1)
    table = count_hits(hits, PICTURES, CLASSES)
    assert table.shape == (4, 3, 3, 2)
    for column in range(3):
        assert np.array_equal(table[:, column], count_hits(hits[:, column], PICTURES, CLASSES))
    together = bootstrap(table, class_mean)
    alone = [bootstrap(table[:, column], class_mean) for column in range(3)]
    assert together.value == pytest.approx([each.value for each in alone])
    assert together.low == pytest.approx([each.low for each in alone])
    difference = difference_estimate(table[:, 2], table[:, 0], class_mean)
    assert difference.value == pytest.approx(1 - alone[0].value)


def test_a_pair_without_a_map_takes_its_picture_out() -> None:
    hits = np.where(np.arange(6) == 2, np.nan, HITS)
    estimate = bootstrap(count_hits(hits, PICTURES, CLASSES), class_mean)
    kept = [0, 1, 4, 5]
    expected = bootstrap(count_hits(HITS[kept], np.array(PICTURES)[kept], np.array(CLASSES)[kept]), class_mean)
    assert estimate == expected and estimate.n == 3


def test_an_interval_is_not_pulled_down_where_classes_are_rare() -> None:
    """Each picture has a class of its own, and a third of the classes are missing from a resample."""
    always = bootstrap(count_hits(np.ones(30, bool), range(30), range(30)), class_mean)
    assert (always.low, always.value, always.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "0 hits"),
        ((HITS, PICTURES[:5], CLASSES), "5 groups"),
        ((HITS, PICTURES, CLASSES, [3, 7]), "class 5 is not among"),
    ],
)
def test_hits_that_cannot_be_counted(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        count_hits(*arguments)


def test_agrees_with_torchray() -> None:
    """Hits pair by pair, and the mean over twenty classes of all pairs and of a subset that lacks some classes."""
    torchray = pytest.importorskip("torchray.benchmark.pointing_game")
    generator = np.random.default_rng(1)
    count = 200
    classes = generator.integers(0, 20, count)
    subset = (generator.random(count) < 0.3) & (classes < 15)
    points = maxima(random_maps(count), (HEIGHT, WIDTH))[:, 0]
    games = {"all": torchray.PointingGame(20), "subset": torchray.PointingGame(20)}
    hits = []
    for point, target, hard in zip(points, classes.tolist(), subset, strict=True):
        boxes = random_boxes(generator)
        hits.append(bool(distances(point, boxes) < TOLERANCE))
        verdict = games["all"].evaluate(torch.from_numpy(region(boxes)), point.tolist())
        assert hits[-1] == (verdict == 1)
        for name in ("all", "subset") if hard else ("all",):
            games[name].aggregate(verdict, target)
    assert 0.3 < np.mean(hits) < 0.95
    for name, kept in (("all", np.ones(count, bool)), ("subset", subset)):
        table = count_hits(np.array(hits)[kept], np.arange(count)[kept], classes[kept], among=range(20))
        assert bootstrap(table, class_mean).value == pytest.approx(float(games[name].accuracy))
