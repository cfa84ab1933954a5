"""How far a run is: what the command line shows of it."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from perceptual_lib.engine import Run
from perceptual_lib.keys import Shard


class Bar:
    """A bar whose length is the network passes left, so that its time left holds for cheap and dear methods alike.

    In a log, which is no terminal, it is a line every half minute.
    """

    def __init__(self, unfinished: Sequence[Shard]) -> None:
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

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class _Lines:
    """Standard error, where each state of a bar gets a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def by_label(shards: Iterable[Shard], run: Run) -> list[tuple[str, int, int]]:
    """(label, finished, all) of shards, in their order."""
    total, finished = Counter(), Counter()
    for shard in shards:
        total[shard.label] += 1
        finished[shard.label] += run.is_finished(shard)
    return [(label, finished[label], count) for label, count in total.items()]


def duration(seconds: float) -> str:
    """ "2 h 05 min", "12 min" or "40 s"."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
