"""How far runs are: what the command line shows of it."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard

Work = Iterable[tuple[Run, Sequence[Shard]]]
"""Shards, with the run that they are part of."""


class Bar:
    """A bar whose length is the network passes left, so that its time left holds for cheap and dear methods alike.

    It shows what the runs do within its context. In a log, which is no terminal, it is a line every half minute.

    Args:
        work: the shards that are not finished.
    """

    def __init__(self, work: Work) -> None:
        work = list(work)
        self.runs = [run for run, _ in work]
        unfinished = [shard for _, shard in distinct(work).values()]
        self.left = len(unfinished)
        self.working: Counter[str] = Counter()
        self.live = sys.stderr.isatty()
        style: dict[str, Any] = {"bar_format": "{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left{postfix}"}
        if not self.live:
            style = {"bar_format": "{percentage:.0f}%, {elapsed} gone, {remaining} left{postfix}"}
            style |= {"file": _Lines(), "mininterval": 30.0, "miniters": 0}
        # The mean speed of the whole run (smoothing 0): that of the last shards depends on their method.
        self.bar = tqdm(total=sum(shard.cost for shard in unfinished), smoothing=0, **style)

    def report(self, shard: Shard, state: str) -> None:
        """Take what a `Run` reports."""
        if state == "started":
            self.working[shard.label] += 1
        else:
            self.working[shard.label] -= state == "finished"
            self.left -= 1
        labels = " + ".join((+self.working).keys())
        self.bar.set_postfix_str(
            f"{self.left} shards left{labels and f', at {labels}'}", refresh=self.live and state == "started"
        )
        if state != "started":
            self.bar.update(shard.cost)

    def __enter__(self) -> "Bar":
        for run in self.runs:
            run.report = self.report
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class _Lines:
    """Standard error, where each state of a bar gets a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def distinct(work: Work) -> dict[str, tuple[Run, Shard]]:
    """The shards by key: two experiments may score the same maps, which are computed once."""
    return {run.key(shard): (run, shard) for run, shards in work for shard in shards}


def by_label(work: Work) -> list[tuple[str, int, int]]:
    """(label, finished, all) of the shards, in their order."""
    total, finished = Counter(), Counter()
    for run, shard in distinct(work).values():
        total[shard.label] += 1
        finished[shard.label] += run.is_finished(shard)
    return [(label, finished[label], count) for label, count in total.items()]
