"""The explorers' numerics in a browser against the library: blur, cuts, components and IoU."""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from browser import new_tab
from playwright.sync_api import Browser, Page
from scipy import ndimage

from perceptual_lib.book.explorer.widget import HERE, array_chunk
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.localization.protocol import (
    THRESHOLDS,
    box_iou,
    component_boxes,
    cut,
    localize,
)
from perceptual_lib.evaluation.places import scale_and_blur

SHAPES = [(40, 57), (57, 40), (1, 30), (30, 1), (5, 4), (1, 1)]
LARGE = (224, 224)
SIGMAS = [0, 0.1, 0.7, 2.3, 5, 7.9, 8, 12.5, 30, 100]
TOLERANCE = 1e-6  # of a blur, for a map in [0, 1]

HELPERS = """
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const text = (values) => {
  const all = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let letters = "";
  for (const byte of all) letters += String.fromCharCode(byte);
  return btoa(letters);
};
window.blurs = ([map, [height, width], sigmas]) => {
  return sigmas.map((sigma) => text(blur(floats(map), height, width, sigma)));
};
window.cuts = ([map, [height, width], thresholds, boxes]) => {
  const values = floats(map);
  return thresholds.map(([strategy, alpha]) => {
    const { mask, count } = threshold(values, strategy, alpha);
    const { box } = largestComponent(mask, height, width);
    return { count, box: box ?? [0, 0, -1, -1], iou: iou(box, boxes) };
  });
};
window.masks = ([map, [height, width], strategy, alpha]) => {
  const { mask } = threshold(floats(map), strategy, alpha);
  return [text(mask), text(largestComponent(mask, height, width).mask)];
};
"""


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    source = (HERE / "numerics.js").read_text(encoding="utf-8").replace("export function", "function")
    with new_tab(browser) as tab:
        tab.add_script_tag(content=source + HELPERS)
        yield tab


def sent(array: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(array, dtype=np.float32).tobytes()).decode()


def received(text: str, shape: tuple[int, int], dtype: type = np.float32) -> np.ndarray:
    return np.frombuffer(b64decode(text), dtype).reshape(shape)


def blurred(tab: Page, saliency: np.ndarray, sigmas: list[float]) -> list[np.ndarray]:
    answers = tab.evaluate("blurs", [sent(saliency), saliency.shape, sigmas])
    return [received(each, saliency.shape) for each in answers]


@cache
def maps_of(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Maps in [0, 1] of one shape, float32."""
    random = np.random.default_rng(shape[0])
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    spots = ndimage.gaussian_filter(random.exponential(size=shape) ** 4, 0.02 * max(shape))
    corner = np.zeros(shape)
    corner[0, -1] = 1
    maps = {
        "noise": random.random(shape),
        "spots": spots / spots.max(),
        "few values": random.integers(0, 4, shape) / 3,
        "corner": corner,
        "half": columns >= shape[1] / 2,
        "checkerboard": (rows + columns) % 2,
        "zeros": np.zeros(shape),
        "constant": np.full(shape, 0.35),
    }
    return {name: each.astype(np.float32) for name, each in maps.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_blur_is_scipys_and_the_librarys(tab: Page, shape: tuple[int, int]) -> None:
    for name, saliency in maps_of(shape).items():
        for sigma, found in zip(SIGMAS, blurred(tab, saliency, SIGMAS), strict=True):
            exact = ndimage.gaussian_filter(saliency.astype(np.float64), sigma)
            ours = gaussian_blur(torch.from_numpy(saliency), sigma).numpy()
            assert np.abs(found - exact).max() < TOLERANCE, (name, sigma)
            assert np.abs(found - ours).max() < TOLERANCE, (name, sigma)
            assert found.min() >= 0


def test_a_large_map_is_blurred_within_a_moment(tab: Page) -> None:
    [found] = blurred(tab, maps_of(LARGE)["noise"], [30])
    exact = ndimage.gaussian_filter(maps_of(LARGE)["noise"].astype(np.float64), 30)
    assert np.abs(found - exact).max() < TOLERANCE
    milliseconds = tab.evaluate(
        """() => {
          const map = new Float32Array(224 * 224).fill(0.5);
          const times = Array.from({ length: 9 }, () => {
            const start = performance.now();
            blur(map, 224, 224, 30);
            return performance.now() - start;
          });
          return Math.min(...times);
        }"""
    )
    assert milliseconds < 100  # a frame of 16 where nothing else runs


@pytest.mark.parametrize("shape", SHAPES)
def test_components_boxes_and_iou_are_exactly_the_librarys(tab: Page, shape: tuple[int, int]) -> None:
    height, width = shape
    boxes = [(0.2 * width, 0.1 * height, 0.7 * width, 0.8 * height), (0, 0, width / 4, height / 3)]
    for name, saliency in maps_of(shape).items():
        found = tab.evaluate("cuts", [sent(saliency), shape, THRESHOLDS, boxes])
        assert [each["box"] for each in found] == component_boxes(saliency[None])[0].tolist(), name
        assert [each["iou"] for each in found] == localize(saliency[None], [boxes])[0].tolist(), name
        kept = [int(cut(saliency, *threshold).sum()) for threshold in THRESHOLDS]
        assert [each["count"] for each in found] == kept, name


@pytest.mark.parametrize(("strategy", "alpha"), [("value", 0.5), ("percent", 0.3), ("mean", 1.2)])
def test_masks_are_exactly_the_librarys(tab: Page, strategy: str, alpha: float) -> None:
    for shape in SHAPES:
        for saliency in maps_of(shape).values():
            whole, largest = tab.evaluate("masks", [sent(saliency), shape, strategy, alpha])
            expected = cut(saliency, strategy, alpha)
            labels, _ = ndimage.label(expected, np.ones((3, 3)))  # numbered by their first pixels in row order
            sizes = np.bincount(labels.ravel())[1:]
            dominant = labels == 1 + sizes.argmax() if expected.any() else expected
            assert np.array_equal(received(whole, shape, np.uint8), expected)
            assert np.array_equal(received(largest, shape, np.uint8), dominant)


def test_a_share_that_ends_on_a_half_is_rounded_to_even(tab: Page) -> None:
    ramp = np.arange(10, dtype=np.float32)[None] / 9
    counts = [each["count"] for each in tab.evaluate("cuts", [sent(ramp), ramp.shape, THRESHOLDS[20:40], []])]
    assert counts == [max(1, round(alpha * 10)) for _, alpha in THRESHOLDS[20:40]]
    assert counts[:6] == [1, 1, 2, 2, 2, 3]  # of shares of 0.5, 1, 1.5, 2, 2.5, 3 pixels


def test_a_box_beside_all_others_fits_none(tab: Page) -> None:
    boxes = [[10, 10, 12, 12], [3.5, 0, 3.2, 4]]  # the second is narrower than a pixel
    box = [0, 0, 3, 4]
    assert tab.evaluate("([box, boxes]) => iou(box, boxes)", [box, boxes]) == box_iou([box], boxes).max()
    assert tab.evaluate("iou([0, 0, 1, 1], [[5, 5, 6, 6]])") == 0


@pytest.mark.parametrize("sigma", [1.5, 10, 30])
def test_a_map_of_sixteen_bits_is_localized_as_in_the_library(tab: Page, sigma: float) -> None:
    """The fit is the same number where no pixel is within the blur's error of a threshold: nearly everywhere."""
    boxes = [(40, 50, 150.5, 170.25), (5, 100, 60, 220)]
    random = np.random.default_rng(3)
    same = []
    for blur in (0.5, 4):
        saliency = ndimage.gaussian_filter(random.exponential(size=LARGE) ** 3, blur)
        head, data = array_chunk(saliency)
        scaled = np.frombuffer(zlib.decompress(data), "<u2").reshape(head["shape"]) / 65535
        expected = scale_and_blur(torch.from_numpy(scaled.astype(np.float32))[None], sigma)
        [found] = blurred(tab, scaled, [sigma])
        fits = [each["iou"] for each in tab.evaluate("cuts", [sent(found), LARGE, THRESHOLDS, boxes])]
        safe = [is_safe(expected[0].numpy(), *threshold) for threshold in THRESHOLDS]
        equal = localize(expected, [boxes])[0] == fits
        assert equal[safe].all()
        same.append(equal)
    assert np.mean(same) > 0.99


def is_safe(saliency: np.ndarray, strategy: str, alpha: float) -> bool:
    """Whether a change of every pixel by the blur's error leaves a cut as it is."""
    kept = cut(saliency, strategy, alpha)
    gap = saliency[kept].min(initial=np.inf) - saliency[~kept].max(initial=-np.inf)
    if strategy == "percent":
        return gap > 2 * TOLERANCE
    level = alpha * (saliency.mean(dtype=np.float64) if strategy == "mean" else 1)
    error = TOLERANCE * (1 + alpha if strategy == "mean" else 1)
    return np.abs(saliency - level).min() > error
