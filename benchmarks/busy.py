"""How busy a GPU is with whole searches, and what they take in less precision: `python -m benchmarks.busy FILE`.

Writes JSON. Milliseconds are those of a call of `perceptual_ball` on the embedded network, the least of three.
"""

import json
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perceptual_lib import load_classifier, load_photographs, perceptual_ball
from perceptual_lib.core.checks import ready
from perceptual_lib.core.passes import Kept

SEARCHES = ((1, 60), (16, 60), (64, 60))  # images at once, steps


def milliseconds(run: Callable[[], object]) -> float:
    """Of the fastest of three calls, after three that record what is asked for again."""

    def once() -> None:
        run()
        torch.cuda.synchronize()

    timeit.repeat(once, number=1, repeat=3)
    return 1000 * min(timeit.repeat(once, number=1, repeat=3))


def busy(run: Callable[[], object]) -> float:
    """Milliseconds in which the GPU computes or copies."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    return sum(event.device_time for event in profile.events() if event.device_type == on_gpu) / 1000


def measure() -> dict[str, Any]:
    """All of it."""
    lite = load_classifier(device="cuda")
    images = lite.preprocess([photograph.path for photograph in load_photographs(limit=16)]).repeat(4, 1, 1, 1)
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "evaluations": []}
    for batch, steps in SEARCHES:

        def search(steps: int = steps, batch: int = batch) -> object:
            return perceptual_ball(lite, images[:batch], **lite.settings | {"max_iter": steps})

        line = {"batch": batch, "steps": steps, "milliseconds": milliseconds(search), "busy": busy(search)}
        found["evaluations"].append(line | {"one_step": milliseconds(lambda search=search: search(steps=1))})
    with ready(lite, images[:1], None) as (image, _):
        kept = Kept.of(lite.network, image)
        found["check"] = milliseconds(lambda: Kept.of(lite.network, image))
    assert kept.record.graphs, "nothing was recorded"
    found["precision"] = {}
    for lite.precision in ("full", "tf32", "bf16"):
        settings = lite.settings | {"max_iter": 60}
        found["precision"][lite.precision] = milliseconds(lambda: perceptual_ball(lite, images[:16], **settings))  # noqa: B023
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(measure(), indent=1) + "\n")
