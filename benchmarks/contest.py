"""A contest: ours, its rivals and the floor take turns on the same work, so that what disturbs one disturbs all.

pytest-benchmark times ours and keeps the rows comparable between versions; what it sets up before each of its rounds
is a round of the others. What belongs to a row beside its seconds stands in the row's `extra_info`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perceptual_lib.activations import frozen


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

    Args:
        benchmark: pytest-benchmark's fixture.
        rounds: in which each takes its turn.
        device: that is waited for.
    """

    def __init__(self, benchmark: Any, rounds: int, device: torch.device) -> None:
        self.benchmark = benchmark
        self.rounds = rounds
        self.device = device

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
    ) -> dict[str, Any]:
        """Run the rounds and write the row.

        Args:
            row: number and letter of the row.
            title: the work, in words.
            units, unit: what the seconds are told for, and how many of them the work has.
            ours: the library's way.
            others: the rivals, by name; "floor" is the passes of the network that the work needs.
            limits: for the floor, how many times its time ours may take; for a rival, how many times ours it takes at
                least; "seconds", of ours for one unit.
            agreement: says how far the results agree, from all of them by name; raises where they do not.

        Returns:
            The results of the last round, by name.
        """
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        results: dict[str, Any] = {}

        def turn(name: str, run: Callable[[], Any], share: float = 1.0) -> None:
            self._wait()
            start = time.perf_counter()
            results[name] = run()
            self._wait()
            seconds[name].append((time.perf_counter() - start) / share / units)

        def of_the_others() -> None:
            for name, other in others.items():
                turn(name, other.run, other.share)

        self.benchmark.pedantic(lambda: turn("ours", ours), setup=of_the_others, rounds=self.rounds, iterations=1)
        self.benchmark.extra_info.update(
            row=row,
            title=title,
            unit=unit,
            units=units,
            seconds=seconds,
            limits=dict(limits),
            about={name: other.about for name, other in others.items()},
            agreement=agreement(results) if agreement else "",
        )
        return results

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def floor(
    network: nn.Module, images: Tensor, *, forward: int = 0, both: int = 0, sizes: Sequence[int], at_most: float = 2.0
) -> Turn:
    """The passes that the work needs and nothing else, at the batch size that takes least for an image.

    Args:
        network: from images to logits.
        images: (B, C, H, W), from which batches are made.
        forward, both: how many passes of one image the work needs, forward alone and forward and back to the input.
        sizes: batch sizes to choose from.
        at_most: seconds of a turn, about; its time is enlarged to that of all passes.
    """
    repeated = images.detach().repeat(-(-max(sizes) // len(images)), 1, 1, 1)
    layouts = torch.contiguous_format, torch.channels_last
    batches = [repeated[:size].clone(memory_format=layout) for size in sizes for layout in layouts]
    kinds = [(needed, backward) for needed, backward in ((forward, False), (both, True)) if needed]
    best = [(needed, backward, *_least(network, batches, backward)) for needed, backward in kinds]
    share = min(1.0, at_most / sum(needed * seconds for needed, _, _, seconds in best))
    plan = [(max(1, round(share * needed / len(batch))), batch, backward) for needed, backward, batch, _ in best]
    # What is run is told in seconds of one pass of each kind, so that rounding the number of batches does no harm.
    done = sum(
        times * len(batch) * seconds for (times, batch, _), (_, _, _, seconds) in zip(plan, best, strict=True)
    ) / sum(needed * seconds for needed, _, _, seconds in best)
    words = [f"{'forward and input-gradient' if back else 'forward'} in batches of {len(one)}" for _, one, back in plan]
    return Turn(lambda: [_passes(network, *each) for each in plan], done, " and ".join(words))


def _least(network: nn.Module, batches: Sequence[Tensor], backward: bool) -> tuple[Tensor, float]:
    """The batch that takes least for an image, and how many seconds."""
    found = {}
    for batch in batches:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            _passes(network, 1, batch, backward)
            seconds.append(time.perf_counter() - start)
        found[min(seconds) / len(batch)] = batch
    return found[min(found)], min(found)


def _passes(network: nn.Module, times: int, batch: Tensor, backward: bool) -> None:
    with frozen(network), torch.set_grad_enabled(backward):
        for _ in range(times):
            if backward:
                torch.autograd.grad(network(batch.requires_grad_()).sum(), batch)
            else:
                network(batch)
    if batch.is_cuda:
        torch.cuda.synchronize()
