"""Pieces of work that are measured in new processes, so that no work before them has filled caches or memory."""

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.contest import timed

Work = Callable[[], object]
Pieces = tuple[Work, Work]
"""The work whose memory is measured and, after it, the work whose time is measured."""


@dataclass(frozen=True)
class Measured:
    """What a piece of work took.

    Attributes:
        seconds: the least of three runs of its second piece.
        memory: the most that its first piece held in addition to what was there before, in bytes.
    """

    seconds: float
    memory: int


def measured(prepare: Callable[..., Pieces], threads: int, *arguments: object) -> Measured:
    """Prepare work with these arguments and measure it, in a new process with so many threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, prepare, threads, *arguments).result()


def _measure(prepare: Callable[..., Pieces], threads: int, *arguments: object) -> Measured:
    torch.set_num_threads(threads)
    first, second = prepare(*arguments)
    memory = _peak(first)
    return Measured(min(timed(second)[1] for _ in range(3)), memory)


def _peak(run: Work) -> int:
    if torch.cuda.is_initialized():  # the work was prepared on the GPU
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(what: str) -> int:
    """Bytes of resident memory from Linux's /proc; on other systems the peak so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def perturbation(images: int, side: int, layers: int, steps: int) -> Pieces:
    """Explain square images of `side` pixels with the first `layers` activations held."""
    from perceptual_lib import load_classifier, perceptual_ball

    classifier = load_classifier()
    inputs = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    settings = classifier.settings | {"layers": range(layers), "max_iter": steps}

    def run() -> object:
        return perceptual_ball(classifier, inputs, **settings)

    return run, run


def optimizer(size: int, batch: int) -> Pieces:
    """L-BFGS alone: fill a history of `size` pairs and take ten more steps; then ten steps with the full history."""
    from perceptual_lib.core.history import History

    length = 3 * 224 * 224
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)

    def vector() -> torch.Tensor:
        return torch.randn(batch, length, generator=generator).to(device)

    more = [vector() for _ in range(10)]
    histories = []

    def fill() -> None:
        histories.append(History(more[0], size))
        for _ in range(size):
            step = vector()
            histories[0].direction(step, 2 * step, step)
        ten_steps()

    def ten_steps() -> None:
        for step in more:
            histories[0].direction(step, 2 * step, step)

    return fill, ten_steps


def rise(count: int) -> Pieces:
    """RISE with so many masks on one image."""
    from perceptual_lib import explain, load_classifier

    classifier = load_classifier()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(classifier.device)

    def run() -> object:
        return explain(classifier, image, 0, method="rise", samples=count)

    return run, run


def boxes(count: int) -> Pieces:
    """Weak localization of so many maps."""
    from perceptual_lib.evaluation.localization.protocol import component_boxes

    maps = torch.rand(count, 224, 224, generator=torch.Generator().manual_seed(0)).numpy()
    component_boxes(maps[:1])  # the first call compiles, or loads the compiled code from a cache

    def run() -> object:
        return component_boxes(maps)

    return run, run
