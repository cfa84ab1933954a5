"""A contest: ours, its rivals and the floor take turns on the same work, so that a disturbance affects all of them.

pytest-benchmark times ours, and keeps the rows comparable between versions. The others take their turns in the setup
and the teardown of its rounds. What belongs to a row beside pytest-benchmark's own times is in the row's `extra_info`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.graphs import ASKED, Recorder
from perceptual_lib.core.passes import Passes

SIZES = 1, 2, 4, 6, 8, 16, 32, 64
"""Batch sizes that a floor chooses from, up to the largest that ours uses on any device."""

Pass = Callable[[Tensor, bool], Any]
"""One pass of a batch: forward, or (True) also back to the input."""


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and its seconds, which include what it started on a GPU in use."""
    _wait()
    start = time.perf_counter()
    result = run()
    _wait()
    return result, time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Turn:
    """What one side does in a round.

    Attributes:
        run: the call that is timed.
        share: the part of the row's work that `run` does, below 1 if all takes too long; the time is divided by it.
        about: a description for readers.
    """

    run: Callable[[], Any]
    share: float = 1.0
    about: str = ""


class Contest:
    """One row: call it with ours and the others.

    The first round warms up and is not counted. The order alternates from round to round: floors, ours, rivals, then
    rivals, ours, floors. So between a rival, which may leave memory in disorder, and a floor there is always ours.

    Args:
        benchmark: pytest-benchmark's fixture.
        rounds: how many turns each side takes.
    """

    def __init__(self, benchmark: Any, rounds: int) -> None:
        self.benchmark = benchmark
        self.rounds = rounds

    def __call__(
        self,
        row: str,
        title: str,
        *,
        units: float,
        unit: str,
        ours: Callable[[], Any],
        others: Mapping[str, Turn],
        limits: Mapping[str, float],
        agreement: Callable[[dict[str, Any]], str] | None = None,
        times: int = 1,
    ) -> dict[str, Any]:
        """Run the rounds, write the row, and then compare the results: a row that disagrees says so.

        Args:
            row: number and letter of the row.
            title: the work, in words.
            units, unit: how many units of work the row has, and what a unit is; seconds are told for one.
            ours: the library's way.
            others: the rivals, by name, and the `floors`.
            limits: the goals. For a floor, ours takes at most so many times its time; for a rival, it takes at least so
                many times ours; "seconds", the most that ours takes for one unit.
            agreement: from the results by name, says how far they agree; raises if they do not.
            times: factor on the number of rounds, for a row that is over in a moment.

        Returns:
            The results of the last round, by name.
        """
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        results: dict[str, Any] = {}
        sides = [], []  # rivals, floors
        for name in others:
            sides[name.startswith("floor")].append(name)

        def turn(name: str, side: Turn) -> None:
            results[name], taken = timed(side.run)
            seconds[name].append(taken / side.share / units)

        def one_side() -> None:
            # Rivals before the first turn of ours, floors after it and before the second, and so on.
            for name in sides[len(seconds["ours"]) % 2]:
                turn(name, others[name])

        for _ in range(ASKED - 1 if torch.cuda.is_initialized() else 0):
            ours()  # repeated calls are recorded as CUDA graphs
        self.benchmark.pedantic(
            lambda: turn("ours", Turn(ours)),
            setup=one_side,
            teardown=one_side,
            rounds=times * self.rounds,
            warmup_rounds=1,
        )
        info = self.benchmark.extra_info
        info.update(
            row=row,
            title=title,
            unit=unit,
            units=units,
            seconds={name: taken[1:] for name, taken in seconds.items()},
            limits=dict(limits),
            about={name: other.about for name, other in others.items()},
            agreement="the results DISAGREE" if agreement else "",
        )
        if agreement:
            info["agreement"] = agreement(results)
        return results


def floors(
    network: nn.Module, images: Tensor, *, forward: int = 0, both: int = 0, largest: int, seconds: float
) -> dict[str, Turn]:
    """The passes that the work needs and nothing else, at the batch size with the least time for an image.

    Args:
        network: from images to logits.
        images: (B, C, H, W), from which batches are made.
        forward: how many passes of one image the work needs that are forward only.
        both: how many that are forward and back to the input.
        largest: the largest batch size to choose from.
        seconds: of a turn, about; the time of all passes is extrapolated from it.

    Returns:
        "floor", the network called as it is; "floor, folded", called as ours calls it; on a GPU also "floor, as a
        graph", folded passes recorded and replayed.
    """
    passes = Passes(network)
    with freeze(network):
        plain, folded = (pass_of(call) for call in (network, lambda batch: passes.measure(batch)[0]))
        ways = {"floor": plain, "floor, folded": folded}
        if images.device.type == "cuda":
            ways["floor, as a graph"] = recorded(folded)
        return {name: _floor(network, way, images, forward, both, largest, seconds) for name, way in ways.items()}


def limits(device: torch.device, floor: float, graph: float) -> dict[str, float]:
    """The limit for ours against a floor: on a CPU the network as it is, on a GPU its folded passes as a graph."""
    return {"floor": floor} if device.type == "cpu" else {"floor, as a graph": graph}


def pass_of(call: Callable[[Tensor], Tensor]) -> Pass:
    def once(batch: Tensor, backward: bool) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward):
            if not backward:
                return (call(batch),)
            batch = batch.detach().requires_grad_()
            return torch.autograd.grad(call(batch).sum(), batch)

    return once


def recorded(once: Pass) -> Pass:
    record = Recorder()
    return lambda batch, backward: record(backward, partial(once, backward=backward), batch)


def _floor(
    network: nn.Module, once: Pass, images: Tensor, forward: int, both: int, largest: int, seconds: float
) -> Turn:
    repeated = images.detach().repeat(-(-largest // len(images)), 1, 1, 1)
    layout = torch.channels_last if images.device.type == "cpu" else torch.contiguous_format  # what is fastest there
    batches = [repeated[:size].clone(memory_format=layout) for size in SIZES if size <= largest]
    kinds = [(needed, backward) for needed, backward in ((forward, False), (both, True)) if needed]
    best = [(needed, backward, *_least(once, batches, backward, seconds / 12)) for needed, backward in kinds]
    share = min(1.0, seconds / sum(needed * each for needed, _, _, each in best))
    plan = [(max(1, round(share * needed / len(batch))), batch, backward) for needed, backward, batch, _ in best]
    # The share is computed from the passes that are run, so that rounding the number of batches does not distort it.
    done = sum(times * len(batch) * each for (times, batch, _), (*_, each) in zip(plan, best, strict=True))
    words = [f"{'forward and input-gradient' if back else 'forward'} in batches of {len(one)}" for _, one, back in plan]

    def run() -> None:
        with freeze(network):
            for times, batch, backward in plan:
                for _ in range(times):
                    once(batch, backward)

    return Turn(run, done / sum(needed * each for needed, _, _, each in best), " and ".join(words))


def _least(once: Pass, batches: Sequence[Tensor], backward: bool, seconds: float) -> tuple[Tensor, float]:
    """The batch with the least seconds for an image, and these. The better half is tried again, for twice as long."""
    found = {_for_an_image(once, batch, backward, seconds): batch for batch in batches}
    ranked = sorted(found)
    if len(ranked) == 1:
        return found[ranked[0]], ranked[0]
    return _least(once, [found[each] for each in ranked[: (len(ranked) + 1) // 2]], backward, 2 * seconds)


def _for_an_image(once: Pass, batch: Tensor, backward: bool, at_least: float) -> float:
    """Seconds for an image, from passes that take `at_least` so many seconds. Passes before them warm up and record."""
    for _ in range(1 if batch.device.type == "cpu" else ASKED):
        once(batch, backward)
    passes, taken, some = 0, 0.0, 1 if batch.device.type == "cpu" else 5  # a GPU is not waited for after each pass

    def several() -> None:
        for _ in range(some):
            once(batch, backward)

    while taken < at_least:
        taken += timed(several)[1]
        passes += some
    return taken / passes / len(batch)
