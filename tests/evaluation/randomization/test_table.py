"""Curves of the sanity check against means by hand."""

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.evaluation.randomization.table import randomization_curves

LAYERS = ["", "head.1", "stem"]


def lines(method: str, seed: int, kept: dict[str, list[float] | str]) -> list[dict]:
    """By photograph the correlation at each stage, or a failure; SSIM is half of it."""
    return [
        {
            "role": "table",
            "method": method,
            "settings": "{}",
            "seed": seed,
            "photograph": name,
            "failure": values if isinstance(values, str) else "",
            "seconds": 1.0,
            "stage": stage,
            "layer": LAYERS[stage],
            "correlation": np.nan if isinstance(values, str) else values[stage],
            "ssim": np.nan if isinstance(values, str) else values[stage] / 2,
        }
        for name, values in kept.items()
        for stage in (2, 0, 1)
    ]


def test_means_over_photographs_and_seeds() -> None:
    ours = lines("ours", 3, {"a": [1, 0.5, 0.1], "b": [1, 0.7, 0.3], "c": [1, 0.9, 0.8]})
    ours += lines("ours", 1, {"b": [1, 0.3, 0.1], "a": [1, 0.1, 0.1], "c": "ValueError: no map"})
    lost = lines("lost", 1, {"a": [1, 0, 0], "b": "failed"})
    curves = randomization_curves(pd.DataFrame(ours + lost))
    assert list(curves) == ["ours"]  # one photograph has no interval
    stages, kept = curves["ours"]
    assert stages == ["trained", "head.1", "stem"]
    assert kept.value == pytest.approx([1, 0.4, 0.15]) and kept.n == 2  # c failed once
    assert (kept.low[0], kept.high[0]) == (1, 1)
    assert (kept.low[1], kept.high[1]) == pytest.approx((0.1, 0.7))  # a alone with one seed, b with the other
    assert randomization_curves(pd.DataFrame(ours), "ssim")["ours"][1].value == pytest.approx([0.5, 0.2, 0.075])


def test_nothing_gives_no_curve() -> None:
    failed = pd.DataFrame(lines("ours", 0, dict.fromkeys("abc", "failed")))
    assert randomization_curves(failed) == {} == randomization_curves(failed[:0])
