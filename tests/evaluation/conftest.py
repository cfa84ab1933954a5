"""Shared by the tests of games."""

import pytest
from stand_ins import Layered

from perceptual_lib.evaluation.randomization import score
from perceptual_lib.evaluation.randomization.protocol import fresh_network


@pytest.fixture
def of_layered(monkeypatch) -> None:
    """Untrained networks are those of `Layered`, which no name is known for."""
    monkeypatch.setattr(score, "fresh_network", lambda name, seed: fresh_network(Layered(), seed))
