"""A run: shards through an executor into a store.

    shards ──> key: finished? ──> claim ──> worker (a loaded network) ──> file ──> arrays

The run reads the pictures and writes the files; workers only compute.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs.executors import ATTEMPTS, Executor
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays, Claim, Store

POLL = 1.0  # seconds between looks at what another run is computing


@dataclass(frozen=True)
class _Flight:
    """A shard that is being computed."""

    shard: Shard
    call: tuple[Any, ...]  # arguments of `Worker.compute`
    claim: Claim
    release: ExitStack


class Run:
    """Shards on their way through an executor into a store.

    Args:
        store: where finished shards are.
        executor: what computes the others.
        report: called as `report(shard, state)` with "started", "finished" by this run, "found" finished.
    """

    def __init__(self, store: Store, executor: Executor, report: Callable[[Shard, str], None] = lambda *_: None):
        self.store = store
        self.executor = executor
        self.report = report
        self.network = self.ask("identity")
        self.verified: set[str] = set()  # keys of files that this run has read

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a worker's method returns. Raises InputError where the worker dies of it."""
        try:
            return self.executor.submit(name, *arguments).result()
        except self.executor.death:
            raise InputError(f"a worker died while it was asked for its {name}; it may need more memory.") from None

    def key(self, shard: Shard) -> str:
        """The shard's key on this run's network, with its photographs as they are now."""
        return shard.key(self.network)

    def load(self, shard: Shard) -> Arrays | None:
        """A finished shard's arrays; None for one that is not."""
        key = self.key(shard)
        arrays = self.store.load(key)
        (self.verified.discard if arrays is None else self.verified.add)(key)
        return arrays

    def is_finished(self, shard: Shard) -> bool:
        """Whether its file is there and whole; read once in a run."""
        return self.key(shard) in self.verified or self.load(shard) is not None

    def unfinished(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those of the shards that are not finished, behind those that they need and are not finished either."""
        missing = [shard for shard in shards if not self.is_finished(shard)]
        needed = list(dict.fromkeys(shard.needs for shard in missing if shard.needs is not None))
        return (self.unfinished(needed) if needed else []) + missing

    def complete(self, shards: Sequence[Shard]) -> None:
        """Compute what is not finished, and what that needs.

        Raises:
            InputError: a worker died again and again, or the store cannot be written. What is finished stays.
        """
        while unfinished := self.unfinished(shards):  # again: photographs may have changed meanwhile
            with ExitStack() as claims:  # whatever happens, none is left behind
                self._complete(deque(filter(self._can_start, unfinished)), claims)

    def _can_start(self, shard: Shard) -> bool:
        return shard.needs is None or self.is_finished(shard.needs)

    def _complete(self, waiting: deque[Shard], claims: ExitStack) -> None:
        flying: dict[Future, _Flight] = {}
        deaths = 0
        while waiting or flying:
            self._fill(flying, waiting, claims)
            if not flying:  # what is left is being computed by another run
                time.sleep(POLL if waiting else 0)
                continue
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            try:
                for future in done:
                    self._land(flying[future], future.result())
                    del flying[future]
                    deaths = 0
            except self.executor.death:
                deaths += 1
                if deaths == self.executor.attempts:
                    labels = ", ".join(flight.shard.label for flight in flying.values())
                    raise InputError(
                        f"workers died {ATTEMPTS} times in a row, computing {labels}; they may need more memory: use "
                        "fewer workers, or smaller batches in the profile."
                    ) from None
                self.executor.restart()
                flying = {self._submit(flight): flight for flight in flying.values()}

    def _fill(self, flying: dict[Future, _Flight], waiting: deque[Shard], claims: ExitStack) -> None:
        """Start waiting shards until no worker is idle. One that another run is computing goes to the end."""
        for _ in range(len(waiting)):
            if len(flying) == self.executor.capacity:
                return
            shard = waiting.popleft()
            if self.is_finished(shard):
                self.report(shard, "found")
            elif (flight := self._take_off(shard, claims)) is not None:
                self.report(shard, "started")
                flying[self._submit(flight)] = flight
            elif self._can_start(shard):
                waiting.append(shard)

    def _take_off(self, shard: Shard, claims: ExitStack) -> _Flight | None:
        """Claim a shard and read what it takes; None where that is not to be had now, or changed meanwhile."""
        key, release = self.key(shard), claims.enter_context(ExitStack())
        claim = release.enter_context(self.store.claim(key))
        if claim is not None and not self.store.path(key).exists():
            pictures = _pictures(shard)
            needed = None if shard.needs is None else self.load(shard.needs)
            if self.key(shard) == key and (shard.needs is None or needed is not None):
                return _Flight(shard, (shard.kind, shard.arguments, pictures, needed), claim, release)
        release.close()
        return None

    def _submit(self, flight: _Flight) -> Future:
        return self.executor.submit("compute", *flight.call)

    def _land(self, flight: _Flight, arrays: Arrays) -> None:
        flight.claim.finish(arrays)
        flight.release.close()
        self.report(flight.shard, "finished")


def _pictures(shard: Shard) -> list[Image.Image | str]:
    """The shard's pictures, and in place of one that cannot be read the reason."""
    if not shard.looks:
        return [""] * len(shard.photographs)
    pictures: list[Image.Image | str] = []
    for photograph in shard.photographs:
        try:
            pictures.append(photograph.open())
        except InputError as error:
            pictures.append(str(error))
    return pictures
