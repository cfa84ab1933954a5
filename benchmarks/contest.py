"""A contest: ours, its rivals and the floor take turns on the same work, so that what disturbs one disturbs all.

pytest-benchmark times ours and keeps the rows comparable between versions; the others take their turns in what it sets
up before each of its rounds and takes down after it. What belongs to a row beside its seconds stands in the row's
`extra_info`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import freeze
from perceptual_lib.core.passes import Passes

SIZES = 1, 2, 4, 6, 8, 16, 32, 64
"""Batches that a floor chooses from: up to the largest that ours takes on any device."""

Network = Callable[[Tensor], Tensor]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and how many seconds it took; a GPU that is in use has done its part by then."""
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
        run: does it.
        share: how much of the row's work that is; where it is too long to be done in full, its time is divided by it.
        about: what it is, for readers.
    """

    run: Callable[[], Any]
    share: float = 1.0
    about: str = ""


class Contest:
    """One row: call it with ours and the others.

    A round in which all warm up comes first and is not counted. The order then turns from round to round: floors, ours,
    rivals, and back. So no floor ever runs behind a rival, which may leave memory in disorder.

    Args:
        benchmark: pytest-benchmark's fixture.
        rounds: in which each takes its turn.
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
            units, unit: what the seconds are told for, and how many of them the work has.
            ours: the library's way.
            others: the rivals, by name, and the `floors`.
            limits: for a floor, how many times its time ours may take; for a rival, how many times ours it takes at
                least; "seconds", of ours for one unit.
            agreement: says how far the results agree, from all of them by name; raises where they do not.
            times: how many times as many rounds as usual, for a row that is over in a moment.

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
            # The rivals before the first of ours, the floors after it and before the second, and so on.
            for name in sides[len(seconds["ours"]) % 2]:
                turn(name, others[name])

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
    """The passes that the work needs and nothing else, at the batch size that takes least for an image.

    Args:
        network: from images to logits.
        images: (B, C, H, W), from which batches are made.
        forward, both: how many passes of one image the work needs, forward alone and forward and back to the input.
        largest: of the batches to choose from.
        seconds: of a turn, about; its time is enlarged to that of all passes.

    Returns:
        "floor", the network called as it is, and "floor, folded", called as ours calls it.
    """
    with freeze(network):
        calls = {"floor": network, "floor, folded": Passes(network)}
        return {name: _floor(network, call, images, forward, both, largest, seconds) for name, call in calls.items()}


def _floor(
    network: nn.Module, call: Network, images: Tensor, forward: int, both: int, largest: int, seconds: float
) -> Turn:
    repeated = images.detach().repeat(-(-largest // len(images)), 1, 1, 1)
    batches = [repeated[:size].clone(memory_format=torch.channels_last) for size in SIZES if size <= largest]
    kinds = [(needed, backward) for needed, backward in ((forward, False), (both, True)) if needed]
    best = [(needed, backward, *_least(call, batches, backward, seconds / 12)) for needed, backward in kinds]
    share = min(1.0, seconds / sum(needed * each for needed, _, _, each in best))
    plan = [(max(1, round(share * needed / len(batch))), batch, backward) for needed, backward, batch, _ in best]
    # What is run is told in seconds of one pass of each kind, so that rounding the number of batches does no harm.
    done = sum(times * len(batch) * each for (times, batch, _), (*_, each) in zip(plan, best, strict=True))
    words = [f"{'forward and input-gradient' if back else 'forward'} in batches of {len(one)}" for _, one, back in plan]

    def run() -> None:
        with freeze(network):
            for times, batch, backward in plan:
                _passes(call, times, batch, backward)

    return Turn(run, done / sum(needed * each for needed, _, _, each in best), " and ".join(words))


def _least(call: Network, batches: Sequence[Tensor], backward: bool, seconds: float) -> tuple[Tensor, float]:
    """The batch that takes least for an image, and how many seconds: the better half is tried for twice as long."""
    found = {_for_an_image(call, batch, backward, seconds): batch for batch in batches}
    ranked = sorted(found)
    if len(ranked) == 1:
        return found[ranked[0]], ranked[0]
    return _least(call, [found[each] for each in ranked[: (len(ranked) + 1) // 2]], backward, 2 * seconds)


def _for_an_image(call: Network, batch: Tensor, backward: bool, at_least: float) -> float:
    """Seconds, over so many passes that they take a while; one before them warms up."""
    _passes(call, 1, batch, backward)
    passes, taken = 0, 0.0
    while taken < at_least:
        taken += timed(lambda: _passes(call, 1, batch, backward))[1]
        passes += 1
    return taken / passes / len(batch)


def _passes(call: Network, times: int, batch: Tensor, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        for _ in range(times):
            if backward:
                torch.autograd.grad(call(batch.requires_grad_()).sum(), batch)
            else:
                call(batch)
