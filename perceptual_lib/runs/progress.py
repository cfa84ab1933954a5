"""How far runs are: what the command line shows of it."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard

Work = Iterable[tuple[Run, Sequence[Shard]]]
"""Shards, with the run that they are part of."""


class Bar(tqdm):
    """A bar that counts passes of the network, so that its remaining time holds for cheap and expensive methods alike.

    It shows what the runs are computing. In a log, which is no terminal, it is a line every half minute.
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
        """Take a `Run`'s report on a shard: "started", "finished" or "found"."""
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


def estimate(work: Work, batch: int) -> Iterator[str]:
    """Lines that say what is unfinished, and how long it takes here, estimated from passes of `batch` images."""
    unfinished = distinct(work).values()
    if not unfinished:
        yield "Everything is finished."
        return
    yield f"To compute: {len(unfinished):,} shards"
    expected = 0.0
    for network, run in {run.network["name"]: run for run, _ in unfinished}.items():
        shards = [shard for owner, shard in unfinished if owner.network["name"] == network]
        forward, backward = (sum(len(shard.photographs) * shard.passes[i] for shard in shards) for i in range(2))
        seconds = run.ask("pass_seconds", batch)
        expected += (forward * seconds[0] + backward * seconds[1]) / run.executor.capacity
        yield f"Passes:     {forward:,} forward, {backward:,} backward of {network}"
        yield (
            f"Measured:   {seconds[0]:.3f} s forward, {seconds[1]:.3f} s backward for an image of a batch of {batch} "
            f"({run.network['device']})"
        )
    workers = f"{run.executor.capacity} worker{'s' * (run.executor.capacity > 1)}"
    time = f"{expected / 86400:.1f} days" if expected > 2 * 86400 else tqdm.format_interval(expected)
    yield f"Expected:   {time} with {workers}, what is not the network's not counted"
