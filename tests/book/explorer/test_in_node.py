"""What a page computes of its reader's photograph, in node: L-BFGS beside the library's, its size beside Pillow's."""

import json
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from perceptual_lib.book.explorer.widget import module
from perceptual_lib.core.lbfgs import minimize

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
SIZE = 24
PROBLEMS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "a valley, 100 times as long as wide": (
        "[w[i] * x * x, 2 * w[i] * x]",
        lambda points, weights: (weights * points.square()).sum(1),
    ),
    "steeper than a valley near its middle": (
        "[w[i] * (x * x + Math.hypot(1, x)), w[i] * (2 * x + x / Math.hypot(1, x))]",
        lambda points, weights: (weights * (points.square() + (1 + points.square()).sqrt())).sum(1),
    ),
    "a plane, without curvature": ("[w[i] * x, w[i]]", lambda points, weights: (weights * points).sum(1)),
    "at its minimum": ("[0, 0]", lambda points, weights: 0 * points.sum(1)),
}
RUN = """
const { w, start, most } = JSON.parse(process.argv[1]);
const evaluate = async (point) => {
  const terms = [...point].map((x, i) => TERM);
  return { loss: terms.reduce((sum, [value]) => sum + value, 0), gradient: Float32Array.from(terms, ([, g]) => g) };
};
const points = [];
try {
  for await (const point of minimize(evaluate, Float32Array.from(start), most)) points.push([...point]);
} catch (error) { points.push(error.message); }
console.log(JSON.stringify(points));
"""


def node(name: str, code: str, **given: object) -> list:
    """What code prints that follows a module; it finds `given` as JSON in `process.argv[1]`."""
    command = ["node", "--input-type=module", "--eval", module(name) + code, json.dumps(given)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def iterates(term: str, **given: object) -> list:
    return node("lbfgs", RUN.replace("TERM", term), **given)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("most", [5, 60])
def test_the_iterates_are_the_librarys(problem: str, most: int) -> None:
    term, losses = PROBLEMS[problem]
    weights, start = torch.logspace(-1, 1, SIZE), torch.linspace(-2, 3, SIZE)
    expected: list[np.ndarray] = []
    minimum = minimize(
        lambda points, _: losses(points, weights),
        start[None],
        max_iter=most,
        callback=lambda step, rows, points: expected.append(points[0].numpy().copy()),
    )
    found = iterates(term, w=weights.tolist(), start=start.tolist(), most=most)
    assert np.array_equal(found[0], expected[0])
    for ours, theirs in zip(found[:12], expected[:12], strict=True):  # rounding parts them later
        assert np.abs(ours - theirs).max() <= 1e-4 * max(1, np.abs(theirs).max())
    assert losses(torch.tensor(found[-1:]), weights) == pytest.approx(
        float(losses(minimum.points, weights)), abs=1e-4, rel=1e-4
    )


def test_what_is_not_a_number_ends_it_with_a_sentence() -> None:
    assert iterates("[0 / 0, 1]", w=[1], start=[1], most=9)[-1].startswith("the search broke down")


@pytest.mark.parametrize("size", [(31, 50), (7, 9), (12, 12), (5, 40)])
def test_a_picture_is_shrunk_to_the_bits_of_pillow(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    opaque = np.dstack([pixels, np.full(size, 255, np.uint8)])
    code = """
const { pixels, from, to } = JSON.parse(process.argv[1]);
console.log(JSON.stringify([...resized(Uint8ClampedArray.from(pixels), from, to)]));
"""
    found = node("pictures", code, pixels=opaque.ravel().tolist(), to=[12, 12], **{"from": size})
    truth = Image.fromarray(pixels).resize((12, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(np.reshape(found, (12, 12, 4))[..., :3], truth)


def test_one_layer_is_a_range_of_one() -> None:
    found = node("ranges", "\nconsole.log(JSON.stringify(['1-3', '5', '5-3', 'relu', ''].map(parsedRange)))")
    assert found == [{"layers": "1-3", "first": 1, "last": 3}, {"layers": "5-5", "first": 5, "last": 5}, *[None] * 3]


@pytest.mark.parametrize("low, high", [(0, 1), (-0.065, 1), (-2, 1.5), (0, 0.0123), (-0.2, 7.3), (40, 61), (3, 3)])
def test_ticks_are_round_and_around_what_is_drawn(low: float, high: float) -> None:
    ticks = np.array(node("chart", f"\nconsole.log(JSON.stringify(roundTicks({low}, {high})))"))
    steps = np.diff(ticks)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9 and len(steps) <= 5
    counts = ticks / (steps[0] if len(steps) else 1)
    assert np.allclose(steps, steps[:1]) and np.allclose(counts, counts.round(), atol=1e-6)
    assert all(float(f"{step:.0e}"[0]) in (1, 2, 5) for step in steps)
