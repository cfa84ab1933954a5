"""As if the CPU recorded."""

import pytest
from fake_graphs import Again

from perceptual_lib.core import graphs, history, lbfgs, passes, perturbation
from perceptual_lib.core.graphs import Recorder
from perceptual_lib.core.passes import Kept


@pytest.fixture
def recording(monkeypatch):
    """As if the CPU were a device that records: batches are of few sizes, too. Yields the graphs made."""
    monkeypatch.setattr(Recorder, "make", Again)
    for module in (graphs, history, passes, perturbation):
        monkeypatch.setattr(module, "records", lambda device: True)
    for module in (lbfgs, history):
        monkeypatch.setattr(module, "full_size", lambda count, device: 1 << (count - 1).bit_length())
    monkeypatch.setattr(lbfgs, "look_every", lambda device: 10)
    monkeypatch.setattr(Again, "made", [])
    Kept.networks.clear()
    graphs.SPARE.clear()
    yield Again.made
    Kept.networks.clear()
    graphs.SPARE.clear()
