"""How far a run is: what the command line shows of it."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from perceptual_lib.engine import Run, Shard


class Bar:
    """A bar whose length is the network passes left, so that its time left holds for cheap and dear methods alike."""

    def __init__(self, unfinished: Sequence[Shard]) -> None:
        self.left = len(unfinished)
        self.working: Counter[str] = Counter()
        quiet = {} if sys.stderr.isatty() else {"mininterval": 30.0}  # a line now and then for a log
        self.bar = tqdm(
            total=sum(shard.cost for shard in unfinished),
            bar_format="{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left; {postfix}",
            **quiet,
        )

    def report(self, shard: Shard, state: str) -> None:
        """Take what a `Run` reports."""
        if state == "started":
            self.working[shard.label] += 1
        else:
            self.working[shard.label] -= state == "finished"
            self.left -= 1
        labels = " + ".join((+self.working).keys())
        self.bar.set_postfix_str(f"{self.left} shards left{labels and f', at {labels}'}", refresh=False)
        if state != "started":
            self.bar.update(shard.cost)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


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
