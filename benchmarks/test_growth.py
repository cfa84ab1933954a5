"""How time and memory grow, what several workers gain, and what half the precision costs."""

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.conftest import CPU_THREADS, Scale
from benchmarks.work import measured, optimiser, perturbation
from perceptual_lib import explain, load_photographs, perceptual_ball
from perceptual_lib.classifiers import Classifier
from perceptual_lib.executors import Ray
from perceptual_lib.protocols.insertion_deletion import auc, insertion_deletion
from perceptual_lib.protocols.randomization import rank_correlation
from perceptual_lib.saliency import saliency_map

BASE = {"images": 1, "side": 224, "layers": 26, "steps": 10}
AXES = {
    "images": ("images", [1, 2, 4, 8, 16]),
    "pixels": ("side", [96, 160, 224, 288, 320]),
    "layers held": ("layers", [0, 8, 16, 26, 33]),
    "steps": ("steps", [10, 25, 50, 100, 150]),
}


@pytest.mark.parametrize("axis", AXES)
def test_growth(benchmark, scale: Scale, axis: str) -> None:
    name, values = AXES[axis]
    values = [values[0], *values[-scale.grows + 1 :]] if scale.grows < len(values) else values
    points = []

    def run() -> None:
        for value in values:
            found = measured(perturbation, CPU_THREADS, *(BASE | {name: value}).values())
            points.append([value**2 if name == "side" else value, found.seconds, found.memory])

    benchmark.pedantic(run, rounds=1)
    about = ", ".join(f"{value} {key}" for key, value in BASE.items() if key != name)
    benchmark.extra_info.update(row=f"growth {axis}", title=f"perturbation, {about}", axis=axis, points=points)


def test_growth_of_the_optimiser(benchmark, scale: Scale) -> None:
    points = []

    def run() -> None:
        for size in [10, 25, 50, 75, 100][-scale.grows - 1 :]:
            found = measured(optimiser, CPU_THREADS, size)
            points.append([size, found.seconds, found.memory])

    benchmark.pedantic(run, rounds=1)
    title = "L-BFGS alone, filling a history and ten steps more, one image of 224 x 224"
    benchmark.extra_info.update(row="growth history", title=title, axis="history", points=points)


def test_workers(benchmark, scale: Scale, lite: Classifier) -> None:
    """The same shards by one and by two of Ray's workers, with a thread each."""
    if torch.cuda.is_available():
        pytest.skip("workers would share the GPU")
    pictures = [photograph.open() for photograph in load_photographs(limit=2)]
    settings = lite.settings | {"layers": "0-25", "max_iter": scale.range_steps}
    shards = 8
    seconds = {}

    def run() -> None:
        for workers in (1, 2):
            executor = Ray({"model": "efficientnet_lite0"}, workers)
            try:
                calls = [executor.submit("identity") for _ in range(workers)]
                [call.result() for call in calls]  # both are there
                start = time.perf_counter()
                arguments = "perturbation", {"settings": settings}, pictures, None
                calls = [executor.submit("compute", *arguments) for _ in range(shards)]
                [call.result() for call in calls]
                seconds[str(workers)] = time.perf_counter() - start
            finally:
                executor.close()

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(
        row="workers",
        title=f"{shards} shards of two images by Ray's workers, a thread each",
        workers=seconds,
        evaluations=shards * len(pictures) * (scale.range_steps + 1),
    )


def test_half_precision(benchmark, scale: Scale, lite: Classifier, photographs: Tensor, device: torch.device) -> None:
    """torch.autocast around the games and around the search: what it gains, and what it does to their results."""
    images = photographs[: max(2, scale.games // 2)]
    settings = lite.settings | {"max_iter": scale.batch_steps}
    maps = torch.stack(
        [
            *(explain(lite, images, method=method) for method in ("gradient", "grad_cam", "normgrad")),
            saliency_map(perceptual_ball(lite, images, **settings).delta, 5),
        ],
        1,
    )
    found: dict[str, dict] = {"float32": {}, "bfloat16": {}}

    def run() -> None:
        for name, results in found.items():
            with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"):
                start = time.perf_counter()
                results["areas"] = auc(insertion_deletion(lite, images, maps)).float()
                results["games"] = time.perf_counter() - start
                start = time.perf_counter()
                results["change"] = perceptual_ball(lite, images, **settings).delta.float()
                results["search"] = time.perf_counter() - start

    benchmark.pedantic(run, rounds=1)
    full, half = found.values()
    correlation = rank_correlation(*(saliency_map(each["change"].cpu(), 5) for each in (full, half)))
    benchmark.extra_info.update(
        row="half precision",
        title=f"torch.autocast with bfloat16, {len(images)} images",
        gains={what: full[what] / half[what] for what in ("games", "search")},
        areas_apart=float((full["areas"] - half["areas"]).abs().mean()),
        means_apart=float((full["areas"].mean(0) - half["areas"].mean(0)).abs().max()),
        same_order=bool((full["areas"].mean(0).argsort(0) == half["areas"].mean(0).argsort(0)).all()),
        rank_correlation=float(np.mean(correlation)),
        n=len(images),
    )
