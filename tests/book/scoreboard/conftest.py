"""The exploratory run, and fewer draws for its intervals."""

from pathlib import Path

import pandas as pd
import pytest

from perceptual_lib.book.scoreboard import rules
from perceptual_lib.evaluation.publishing import load_all


@pytest.fixture(scope="module")
def published() -> dict[str, pd.DataFrame]:
    return {name: run.table for name, run in load_all(Path(__file__).parents[3] / "results/imagenet-300").items()}


@pytest.fixture
def few_resamples(monkeypatch) -> None:
    """Where intervals do not matter."""
    monkeypatch.setattr(rules, "RESAMPLES", 200)
