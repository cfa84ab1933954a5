"""What is said of the time that a run takes."""

from types import SimpleNamespace

from perceptual_lib.runs.progress import estimate
from perceptual_lib.runs.shard import Shard


def test_an_estimate_is_of_passes_in_both_directions_and_of_workers() -> None:
    run = SimpleNamespace(
        network={"name": "a network", "device": "cpu"},
        executor=SimpleNamespace(capacity=2),
        ask=lambda name, batch: (1.0, 3.0),  # seconds of a pass
        key=lambda shard: shard.label,
    )
    shards = [Shard("kind", {}, ("a", "b"), label="one", passes=(10, 4)), Shard("kind", {}, ("a",), label="two")]
    said = list(estimate([(run, shards), (run, shards[:1])], 4))
    assert said[0] == "To compute: 2 shards"
    assert said[1] == "Passes:     20 forward, 8 backward of a network"
    assert said[3].startswith("Expected:   00:22 with 2 workers")  # (20 + 3 * 8) / 2
    assert list(estimate([(run, [])], 4)) == ["Everything is finished."]
