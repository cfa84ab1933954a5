"""Stand-ins of the tests: small networks and their state, photographs, shards, and what a store holds."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.executors import Local, Processes
from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Store

QUICK = {
    "extremal_perturbation": {"steps": 4},
    "integrated_gradients": {"steps": 5},
    "no_perceptual": {"max_iter": 5},
    "perceptual": {"max_iter": 5},
    "perceptual_guided": {"max_iter": 5},
    "rise": {"samples": 20, "cells": 3},
    "smoothgrad": {"samples": 3},
}
"""Settings with which methods are over soon."""


class TinyNetwork(nn.Module):
    """Three activations: one in-place ReLU module called twice, and a SiLU that a residual sum overwrites."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.relu(self.norm(self.first(images)))
        second = self.relu(self.second(first))
        third = F.silu(self.second(second))
        third += first
        return self.head(third.mean((2, 3)))


class WrittenOut(nn.Module):
    """SiLU as its formula: an activation that is not seen."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * values.sigmoid()


class Small(nn.Sequential):
    """Fast, with weights that depend on nothing but the seed."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 5)
            )


class Layered(nn.Sequential):
    """Three stages of resolution, so that there are ranges of layers, and layers to be randomized."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 4, 8, stride=8),
                nn.ReLU(),
                nn.Conv2d(4, 4, 2, stride=2),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
                nn.Linear(64, 5),
            )


class Regions(nn.Module):
    """Of convolutions alone: five responses in each region of 16 pixels."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 6, 8, stride=8), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True)
            )
            self.classifier = nn.Conv2d(6, 5, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


def make_photographs(folder: Path, count: int) -> list[Photograph]:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [Photograph(path.stem, path, 0, ((5, 5, 30, 30),), (50, 40)) for path in sorted(folder.iterdir())]


def map_shard(photographs, method: str = "gradient", **settings) -> Shard:
    return Shard(
        "perceptual_lib.evaluation.maps",
        {"method": method, "settings": settings},
        tuple(photographs),
        label=method,
    )


def score_shard(needs: Shard, sigmas=(0.0, 4.0)) -> Shard:
    boxes = [photograph.scaled_boxes(224, 224) for photograph in needs.photographs]
    arguments = {"array": "maps", "sigmas": list(sigmas), "grey": False, "by_image": {"boxes": boxes}}
    return Shard(
        "perceptual_lib.evaluation.localization.protocol",
        arguments,
        needs.photographs,
        True,
        needs,
        f"score {needs.label}",
    )


def work(photographs, size: int = 2) -> list[Shard]:
    """Scores of three methods, shards of so many photographs, behind maps of the same."""
    return [
        score_shard(map_shard(photographs[start : start + size], method, **settings))
        for method, settings in (("gradient", {}), ("center", {}), ("perceptual", {"max_iter": 2}))
        for start in range(0, len(photographs), size)
    ]


def local_run(folder: Path, report=lambda *_: None, network: nn.Module | None = None) -> Run:
    return Run(Store(folder), Local({"model": network or Small()}), report)


def run_beside(folder: Path, photographs, states, together=None) -> None:
    """A run in a process of its own, which tells of its states: (process, state, key).

    It computes its first shard when all that share the barrier `together` have begun one.
    """
    begun = []

    def report(shard: Shard, state: str) -> None:
        states.put((os.getpid(), state, run.key(shard)))
        if together and state == "started" and not begun:
            begun.append(together.wait(120))

    run = local_run(folder, report)
    run.complete(work(photographs, 1))


def keep_a_worker_busy(pipe) -> None:
    """A run in a process of its own, whose one worker has work for ever; tells which process that is."""
    executor = Processes({"model": Small()}, 1)
    executor.submit("compute", "deadly", {"later": 600.0}, [""], None)
    while not executor.workers:
        time.sleep(0.01)
    pipe.send(executor.workers[0].process.pid)
    time.sleep(600)


def kept(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every finished shard's arrays but `seconds`, as bytes."""
    store = Store(folder)
    return {
        path.stem: {
            name: (array.dtype.str, array.shape, array.tobytes())
            for name, array in store.load(path.stem).items()
            if name != "seconds"
        }
        for path in folder.glob("??/*.npz")
    }


def leftovers(folder: Path) -> list[Path]:
    """What a store holds beside finished shards."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".npz"]


def fragile(fails):
    """A method whose map is the image's first channel, except for the images of which `fails(batch)` says so."""

    def method(network: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return fails(images, images[:, 0].clone())

    return method


def small_profile(**sections) -> Profile:
    """Of two steps."""
    perturbation = {"layers": "0-0", "layer_weight": 1.0, "normalize_layers": True, "max_iter": 2}
    return Profile(
        name="mine",
        description="For tests.",
        perturbation=perturbation | sections.pop("perturbation", {}),
        batch_size=3,
        methods={"no_perceptual": {"max_iter": 2}},
        **sections,
    )


def finished(kind: type[Experiment], folder: Path, settings: Profile, network: nn.Module | None = None, **arguments):
    """The finished experiment."""
    experiment = kind(settings, folder / "store", Local({"model": network or Layered()}), **arguments)
    experiment.complete()
    return experiment


def model_state(network: nn.Module) -> dict:
    """Everything that an explanation might leave behind on a model or in torch's globals."""
    return {
        "tensors": {name: (value.clone(), value._version) for name, value in network.state_dict().items()},
        "grads": [parameter.grad for parameter in network.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "training": [module.training for module in network.modules()],
        "inplace": [getattr(module, "inplace", None) for module in network.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for module in network.modules()
        ],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "global hooks": (len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)),
        "modes": torch.overrides._get_current_function_mode_stack(),
    }


def assert_same_state(before: dict, after: dict) -> None:
    for name, (value, version) in before.pop("tensors").items():
        assert torch.equal(value, after["tensors"][name][0]) and version == after["tensors"][name][1], name
    after.pop("tensors")
    assert before == after


def together(*works: Callable[[], None]) -> list[BaseException]:
    """Run in a thread each, and what went wrong."""
    wrong: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong
