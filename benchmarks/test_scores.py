"""Rows 3 and 5: insertion and deletion, weak localization."""

import copy

import numpy as np
import torch
from torch import Tensor

from benchmarks.conftest import CPU_THREADS, Scale
from benchmarks.contest import Contest, Turn, floors, limits
from benchmarks.peers import plain_boxes, plain_games
from benchmarks.work import boxes, measured
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.insertion_deletion.protocol import STEP, auc, insertion_deletion
from perceptual_lib.evaluation.localization.protocol import THRESHOLDS, component_boxes
from perceptual_lib.evaluation.places import scale_and_blur
from perceptual_lib.networks.classifier import Classifier

METHODS = 13  # of Table 1


def test_games(contest: Contest, scale: Scale, lite: Classifier, photographs: Tensor) -> None:
    images = photographs[: scale.games]
    maps = gaussian_blur(torch.rand(len(images), 224, 224, generator=torch.Generator().manual_seed(0)), 5)
    with torch.no_grad():
        targets = lite(images).argmax(1)
    few = max(1, len(images) // 4)
    theirs = copy.deepcopy(lite.network).to(memory_format=torch.contiguous_format)  # as timm makes it
    steps = -(-224 * 224 // STEP)
    passes = 2 * len(images) + 1 + 2 * len(images) * (steps - 1)

    def plainly() -> list:
        rows = zip(images[:few].split(1), maps.cpu(), targets.tolist(), strict=False)
        return [plain_games(theirs, image, saliency, target, STEP) for image, saliency, target in rows]

    def agreement(results: dict) -> str:
        ours = auc(results["ours"])[:few].cpu()
        distance = (ours - auc(torch.tensor(results["one picture at a time"]))).abs().max().item()
        assert distance < 1e-4
        return f"areas differ by at most {distance:.0e}"

    contest(
        "3",
        f"insertion and deletion, {len(images)} images, all steps, EfficientNet-Lite0",
        units=len(images),
        unit="image",
        ours=lambda: insertion_deletion(lite, images, maps, targets).curves,
        others={
            "one picture at a time": Turn(plainly, few / len(images), "RISE's one-image loop, in the default layout"),
            **floors(lite.network, images, forward=passes, largest=scale.floor_batch, seconds=scale.floor_seconds),
        },
        limits=limits(lite.device, 1.1, 1.15) | {"one picture at a time": 2.5},
        agreement=agreement,
    )


def test_weak_localization(contest: Contest, scale: Scale) -> None:
    generator = torch.Generator().manual_seed(0)
    each = max(1, scale.maps // METHODS)
    noise = torch.rand(METHODS, 224, 224, generator=generator) ** 8
    kinds = torch.cat([scale_and_blur(noise[[kind]], 2.0 * kind) for kind in range(METHODS)])
    maps = torch.cat([kinds.roll(shift, -1) for shift in range(each)]).numpy()

    def agreement(results: dict) -> str:
        assert np.array_equal(results["ours"][:METHODS], results["plain loop"])
        return f"the same {METHODS * 250} boxes"

    contest(
        "5",
        f"weak localization, {METHODS} kinds of maps from rough to smooth, {each} of each, 250 thresholds",
        units=len(maps),
        unit="map",
        ours=lambda: component_boxes(maps),
        others={
            "plain loop": Turn(
                lambda: np.stack([plain_boxes(saliency) for saliency in maps[:METHODS]]),
                METHODS / len(maps),
                "scipy.ndimage.label for each cut",
            )
        },
        limits={"plain loop": 20},
        agreement=agreement,
    )


def test_memory_of_weak_localization(benchmark, scale: Scale) -> None:
    counts = [max(13, scale.maps // 4), max(52, scale.maps)]
    found = {}

    def run() -> None:
        for count in counts:
            result = count * len(THRESHOLDS) * 16  # bytes of a box
            found[count] = max(0, measured(boxes, CPU_THREADS, count).memory - result)

    benchmark.pedantic(run, rounds=1)
    few, many = (found[count] for count in counts)
    benchmark.extra_info.update(
        row="5b",
        title=f"peak memory of weak localization beside the maps and their boxes, {counts[1]} maps against {counts[0]} "
        "(or 1 MiB)",
        memory={str(count): memory for count, memory in found.items()},
        limits={"growth": 1.1},
        growth=many / max(2**20, few),  # less than 1 MiB is only some pages of memory
    )
