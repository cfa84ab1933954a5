"""Pieces of work that are measured in a process of their own, which nothing before them has warmed or filled."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Measured:
    """What a piece of work took.

    Attributes:
        seconds: the least of three runs.
        memory: the most that its first run held beside what was there before, in bytes.
    """

    seconds: float
    memory: int


def measured(prepare: Callable[..., Callable[[], object]], threads: int, *arguments: object) -> Measured:
    """Prepare work and do it, in a new process with so many threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, prepare, threads, *arguments).result()


def _measure(prepare: Callable[..., Callable[[], object]], threads: int, *arguments: object) -> Measured:
    torch.set_num_threads(threads)
    run = prepare(*arguments)
    memory = _peak(run)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return Measured(min(seconds), memory)


def _peak(run: Callable[[], object]) -> int:
    if torch.cuda.is_available():
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
    """Bytes, by Linux's own account; elsewhere the largest so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def perturbation(images: int, side: int, layers: int, steps: int) -> Callable[[], object]:
    """Explain images of a side with the first so many activations held."""
    from perceptual_lib import load_classifier, perceptual_ball

    classifier = load_classifier()
    inputs = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    settings = classifier.settings | {"layers": range(layers), "max_iter": steps}
    return lambda: perceptual_ball(classifier, inputs, **settings)


def optimiser(size: int) -> Callable[[], object]:
    """Ten steps of L-BFGS alone with a history that is full after so many."""
    from perceptual_lib.lbfgs import History

    length = 3 * 224 * 224
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(size, 1, length, generator=generator).to(device)
    more = torch.randn(10, 1, length, generator=generator).to(device)

    def run() -> History:
        history = History(steps[0], size)
        for step in steps:
            history.direction(step, 2 * step, step)
        for step in more:
            history.direction(step, 2 * step, step)
        return history

    return run


def rise(count: int) -> Callable[[], object]:
    """RISE with so many masks on one image."""
    from perceptual_lib import explain, load_classifier

    classifier = load_classifier()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    return lambda: explain(classifier, image, 0, method="rise", count=count)
