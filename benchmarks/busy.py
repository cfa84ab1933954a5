"""How long a GPU takes for whole searches and games, compared with their floors; how busy it is; and how long searches
take in lower precision: `python -m benchmarks.busy FILE`.

Writes JSON. Milliseconds are the least of three calls on the embedded network. A floor is the milliseconds of one pass
of the batch as a graph; for forward passes alone, the batch is 64.
"""

import json
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contest import pass_of, recorded
from perceptual_lib import explain, load_classifier, load_photographs, perceptual_ball
from perceptual_lib.core.checks import ready
from perceptual_lib.core.passes import Kept, Passes
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.insertion_deletion.protocol import insertion_deletion

SEARCHES = ((1, 60), (16, 60), (64, 60))  # images at once, steps


def milliseconds(run: Callable[[], object]) -> float:
    """Milliseconds of the fastest of three calls, after three calls in which CUDA graphs are recorded."""

    def once() -> None:
        run()
        torch.cuda.synchronize()

    timeit.repeat(once, number=1, repeat=3)
    return 1000 * min(timeit.repeat(once, number=1, repeat=3))


def busy(run: Callable[[], object]) -> float:
    """Milliseconds in which the GPU computes or copies during one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    return sum(event.device_time for event in profile.events() if event.device_type == on_gpu) / 1000


def floor(network: nn.Module, images: Tensor, *, backward: bool) -> float:
    """Milliseconds of a folded pass that is recorded and replayed, averaged over twenty in a row."""
    passes = Passes(network)
    once = recorded(pass_of(lambda batch: passes.measure(batch)[0]))
    with ready(network, images, None) as (batch, _):
        return milliseconds(lambda: [once(batch, backward) for _ in range(20)]) / 20


def measure() -> dict[str, Any]:
    """All measurements, as JSON."""
    lite = load_classifier(device="cuda")
    images = lite.preprocess([photograph.path for photograph in load_photographs(limit=16)]).repeat(4, 1, 1, 1)
    maps = gaussian_blur(torch.rand(64, 224, 224, generator=torch.Generator().manual_seed(0)), 5)
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "evaluations": []}
    for batch, steps in SEARCHES:

        def search(steps: int = steps, batch: int = batch) -> object:
            return perceptual_ball(lite, images[:batch], **lite.settings | {"max_iter": steps})

        line = {"batch": batch, "steps": steps, "milliseconds": milliseconds(search), "busy": busy(search)}
        line["floor"] = floor(lite.network, images[:batch], backward=True)
        found["evaluations"].append(line | {"one_step": milliseconds(lambda search=search: search(steps=1))})
    found["forward"] = [
        {
            "what": what,
            "passes": passes,
            "milliseconds": milliseconds(run),
            "floor": floor(lite, images, backward=False),
        }
        for what, passes, run in (
            ("RISE, 8000 masks of one image", 8000, lambda: explain(lite, images[:1], 0, method="rise")),
            ("insertion and deletion of 64 images", 3585, lambda: insertion_deletion(lite, images, maps)),
        )
    ]
    with ready(lite, images[:1], None) as (image, _):
        kept = Kept.of(lite.network, image)
        found["check"] = milliseconds(lambda: kept.answers(lite.network))
    assert kept.record.graphs, "nothing was recorded"
    found["precision"] = {}
    for lite.precision in ("full", "tf32", "bf16"):
        settings = lite.settings | {"max_iter": 60}
        found["precision"][lite.precision] = milliseconds(lambda: perceptual_ball(lite, images[:16], **settings))  # noqa: B023
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(measure(), indent=1) + "\n")
