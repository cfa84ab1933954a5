"""Maps at rest: rank correlation against SciPy, paths with a known end, and what is left of a search that stops."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from perceptual_lib import InputError, explain, perceptual_ball
from perceptual_lib.core.rest import Resting, rank_correlation
from perceptual_lib.core.saliency import saliency_map

LOOKS = [8, 12, 16, 24, 32, 48]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def test_rank_correlation_is_scipys() -> None:
    maps = noise(5, 9, 11)
    others = maps + noise(5, 9, 11, seed=1) * torch.tensor([0, 0.1, 1, 10, -1])[:, None, None]
    expected = [spearmanr(*(each.flatten() for each in pair)).statistic for pair in zip(maps, others, strict=True)]
    assert rank_correlation(maps, others).tolist() == pytest.approx(expected, abs=1e-9)


def ends(paths, tolerance: float, count: int) -> list[int]:
    """Steps after which `Resting` lets go of problems whose points (count, N) are paths(step); 64 for the limit."""
    resting, rows, found = Resting(tolerance, 64, torch.Size((3, 16, 16)), count), torch.arange(count), [64] * count
    for step in range(64):
        enough = resting(step, rows, paths(step)[rows])
        for row in rows[enough].tolist():
            found[row] = step
        rows = rows[~enough]
    return found


def test_what_stands_still_ends_at_the_first_look_and_what_jumps_never() -> None:
    still = noise(2, 768)
    assert ends(lambda step: torch.stack([still[0], noise(768, seed=step), still[1]]), 0.01, 3) == [8, 64, 8]


def test_what_moves_evenly_on_the_clock_of_doublings_ends_within_the_tolerance() -> None:
    """Those that move less end earlier."""
    base, direction = noise(768), noise(768, seed=1)

    def paths(step: int) -> Tensor:
        speeds = torch.tensor([0.3, 0.1, 0.03, 0.01])[:, None]
        return base + speeds * math.log2(max(step, 1) / 64) * direction

    found = ends(paths, 0.05, 4)
    assert found == sorted(found, reverse=True) and set(found) <= {*LOOKS, 64} and len(set(found)) > 1
    maps = [saliency_map(torch.stack([paths(step)[row]]).view(1, 3, 16, 16), 5) for row, step in enumerate(found)]
    last = saliency_map(paths(64).view(4, 3, 16, 16), 5)
    assert (1 - rank_correlation(torch.cat(maps), last) <= 0.05).all()


def test_a_search_stops_each_image_on_its_way(tiny, images) -> None:
    """An image that ended after k steps is where k steps lead, and its neighbours do not matter."""
    settings = {"layers": "0-0", "layer_weight": 10.0, "max_iter": 60}
    result = perceptual_ball(tiny, images, tolerance_map=0.02, **settings)
    steps = (result.evaluations - 1).tolist()
    assert set(steps) & set(LOOKS) and result.converged[torch.tensor(steps) < 60].all()
    whole = perceptual_ball(tiny, images, **settings)
    assert (result.evaluations <= whole.evaluations).all() and (result.evaluations < whole.evaluations).any()
    for row, step in enumerate(steps):
        alone = perceptual_ball(tiny, images[row : row + 1], tolerance_map=0.02, **settings)
        assert alone.evaluations.item() == step + 1
        shorter = perceptual_ball(tiny, images[row : row + 1], **settings | {"max_iter": step})
        assert torch.allclose(result.delta[row], shorter.delta[0], rtol=0, atol=1e-9)


def test_what_cannot_be_met_changes_no_bit(tiny, images) -> None:
    settings = {"layers": "0-0", "layer_weight": 10.0, "max_iter": 30}
    off, never = (perceptual_ball(tiny, images, tolerance_map=each, **settings) for each in (None, 1e-15))
    assert torch.equal(off.delta, never.delta) and torch.equal(off.evaluations, never.evaluations)
    maps = [explain(tiny, images, method="perceptual", tolerance_map=each, **settings) for each in (0, 0.1)]
    assert maps[0].shape == maps[1].shape and not torch.equal(*maps)


@pytest.mark.parametrize("tolerance", [-0.1, 1, math.nan, "little"])
@pytest.mark.parametrize("method", ["perceptual", "rise"])
def test_tolerances_out_of_range(tiny, images, method, tolerance) -> None:
    with pytest.raises(
        InputError, match="tolerance_map (is 1 less a rank correlation|of rise is 'little', and must be a number)"
    ):
        explain(tiny, images, 0, method=method, tolerance_map=tolerance)
