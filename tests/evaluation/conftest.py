"""Shared by the tests of games."""

import pytest
from stand_ins import Layered

from perceptual_lib.evaluation.randomization import protocol


@pytest.fixture
def of_layered(monkeypatch) -> None:
    """Untrained networks are those of `Layered`, which no name is known for."""
    monkeypatch.setattr(protocol, "fresh_network", lambda name, seed: Layered(1 + seed))
