"""How far runs are: what the command line shows of it."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard

Work = Iterable[tuple[Run, Sequence[Shard]]]
"""Shards, with the run that they are part of."""


class Bar(tqdm):
    """A bar whose length is the network passes left, so that its time left holds for cheap and dear methods alike.

    It shows what the runs of unfinished shards do. In a log, which is no terminal, it is a line every half minute.
    """

    def __init__(self, work: Work) -> None:
        work = list(work)
        unfinished = [shard for _, shard in distinct(work).values()]
        self.left = len(unfinished)
        self.working: Counter[str] = Counter()
        self.live = bool(sys.stderr) and sys.stderr.isatty()
        bar, log = (" |{bar}|", {}) if self.live else (",", {"file": _Lines(), "mininterval": 30.0, "miniters": 0})
        style = "{percentage:3.0f}%" + bar + " {elapsed} gone, {remaining} left{postfix}"
        # The mean speed of the whole run (smoothing 0): that of the last shards depends on their method.
        super().__init__(total=sum(shard.cost for shard in unfinished), smoothing=0, bar_format=style, **log)
        for run, _ in work:
            run.report = self.report

    def report(self, shard: Shard, state: str) -> None:
        """Take what a `Run` reports."""
        self.working[shard.label] += {"started": 1, "finished": -1, "found": 0}[state]
        self.left -= state != "started"
        labels = " + ".join((+self.working).keys())
        postfix = f"{self.left} shards left{labels and f', at {labels}'}"
        self.set_postfix_str(postfix, refresh=self.live and state == "started")
        if state != "started":
            self.update(shard.cost)


class _Lines:
    """Standard error, where each state of a bar gets a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")


def distinct(work: Work) -> dict[str, tuple[Run, Shard]]:
    """The shards by key: two experiments may score the same maps, which are computed once."""
    return {run.key(shard): (run, shard) for run, shards in work for shard in shards}
