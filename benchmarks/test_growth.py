"""How time and memory grow, what several workers gain, and what lower precision gains and costs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.conftest import CPU_THREADS, Scale
from benchmarks.contest import timed
from benchmarks.work import measured, optimizer, perturbation
from perceptual_lib import explain, load_photographs, perceptual_ball
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.evaluation.insertion_deletion.protocol import insertion_deletion
from perceptual_lib.evaluation.randomization.protocol import rank_correlation
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.runs.executors import Ray

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


def test_growth_of_the_optimizer(benchmark, scale: Scale) -> None:
    points = []

    def run() -> None:
        for size in [10, 25, 50, 75, 100][-scale.grows - 1 :]:
            found = measured(optimizer, CPU_THREADS, size, 1)
            points.append([size, found.seconds, found.memory])

    benchmark.pedantic(run, rounds=1)
    title = "L-BFGS alone, ten steps with a full history and its memory, one image of 224 x 224"
    benchmark.extra_info.update(row="growth history", title=title, axis="history", points=points)


def test_workers(benchmark, scale: Scale, lite: Classifier) -> None:
    """The time of the same shards with one and with two of Ray's workers, which have one thread each."""
    if torch.cuda.is_available():
        pytest.skip("workers would share the GPU")
    pictures = [photograph.open() for photograph in load_photographs(limit=2)]
    settings = lite.settings | {"layers": "0-25", "max_iter": scale.range_steps}
    shards = 8
    seconds = {}

    def shards_by(executor: Ray) -> None:
        arguments = "perceptual_lib.evaluation.maps", {"method": "perceptual", "settings": settings}, pictures, None
        calls = [executor.submit("compute", *arguments) for _ in range(shards)]
        [call.result() for call in calls]

    def run() -> None:
        for workers in (1, 2):
            executor = Ray({"model": "efficientnet_lite0"}, workers)
            try:
                calls = [executor.submit("identity") for _ in range(workers)]
                [call.result() for call in calls]  # wait until all workers have started
                seconds[str(workers)] = timed(lambda executor=executor: shards_by(executor))[1]
            finally:
                executor.close()

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(
        row="workers",
        title=f"{shards} shards of two images by Ray's workers, a thread each",
        workers=seconds,
        evaluations=shards * len(pictures) * (scale.range_steps + 1),
    )


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_precision(
    benchmark, scale: Scale, lite: Classifier, photographs: Tensor, device: torch.device, precision: str
) -> None:
    """What lower precision gains in the games and in the search, and how it changes their results."""
    if precision == "tf32" and device.type == "cpu":
        pytest.skip("TF32 is a GPU's")
    images = photographs[: max(2, scale.games // 2)]
    settings = lite.settings | {"max_iter": scale.batch_steps}
    sources = {
        "gradient": lambda: explain(lite, images, method="gradient"),
        "grad_cam": lambda: explain(lite, images, method="grad_cam"),
        "normgrad": lambda: explain(lite, images, method="normgrad"),
        "perceptual": lambda: saliency_map(perceptual_ball(lite, images, **settings).delta, 5),
    }
    maps = {name: source().float() for name, source in sources.items()}
    stacked = torch.stack(list(maps.values()), 1)
    work = {
        "games": lambda count: insertion_deletion(lite, images[:count], stacked[:count]).areas.float(),
        "search": lambda count: perceptual_ball(lite, images[:count], **settings).delta.float(),
    }
    results: dict[str, dict[str, Tensor]] = {}  # of the last round, in each of the two precisions
    gains: dict[str, list[float]] = {what: [] for what in work}
    others = {}

    def run() -> None:
        for turn, count in enumerate([1, *[len(images)] * scale.rounds]):  # one image warms up
            for what, do in work.items():
                seconds = {}
                results[what] = {}
                for lite.precision in ("full", precision) if turn % 2 else (precision, "full"):
                    results[what][lite.precision], seconds[lite.precision] = timed(lambda do=do, count=count: do(count))
                gains[what].append(seconds["full"] / seconds[precision])
        lite.precision = precision
        others.update({name: source().float() for name, source in sources.items()})

    try:
        benchmark.pedantic(run, rounds=1)
    finally:
        lite.precision = "full"
    pair = [saliency_map(results["search"][each].cpu(), 5) for each in ("full", precision)]
    full, half = (results["games"][each] for each in ("full", precision))
    benchmark.extra_info.update(
        row="half precision" if precision == "bf16" else "tf32",
        title=f"{'torch.autocast with bfloat16' if precision == 'bf16' else 'TF32'}, {len(images)} images",
        gains={what: rounds[1:] for what, rounds in gains.items()},
        areas_apart=float((full - half).abs().mean()),
        means_apart=float((full.mean(0) - half.mean(0)).abs().max()),
        same_order=bool((full.mean(0).argsort(0) == half.mean(0).argsort(0)).all()),
        rank_correlation=float(np.mean(rank_correlation(*pair))),
        maps_apart={name: float((others[name] - maps[name]).norm() / maps[name].norm()) for name in maps},
        n=len(images),
    )
