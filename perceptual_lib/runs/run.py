"""A run: shards through an executor into a store.

    shards ──> key: finished? ──> lease ──> worker (a loaded network) ──> file ──> arrays

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
from perceptual_lib.runs.executors import Executor
from perceptual_lib.runs.processes import ATTEMPTS
from perceptual_lib.runs.shard import Picture, Shard
from perceptual_lib.runs.store import Arrays, Lease, Store

POLL = 1.0  # seconds between looks at what another run is computing


@dataclass
class _Flight:
    """A shard that is being computed."""

    shard: Shard
    call: tuple[Any, ...]  # arguments of `Worker.compute`
    lease: Lease
    release: ExitStack
    deaths: int = 0


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
            InputError: a shard's worker died again and again, or the store cannot be written. What is finished stays.
        """
        while unfinished := self.unfinished(shards):  # again: photographs may have changed meanwhile
            with ExitStack() as leases:  # whatever happens, none is left behind
                self._complete(deque(filter(self._can_start, unfinished)), leases)

    def _can_start(self, shard: Shard) -> bool:
        return shard.needs is None or self.is_finished(shard.needs)

    def _complete(self, waiting: deque[Shard], leases: ExitStack) -> None:
        flying: dict[Future, _Flight] = {}
        while waiting or flying:
            self._fill(flying, waiting, leases)
            if waiting and not flying:  # another run is computing what is left
                time.sleep(POLL)
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                flight = flying.pop(future)
                try:
                    self._land(flight, future.result())
                except self.executor.death:
                    flying[self._submit_again(flight)] = flight

    def _fill(self, flying: dict[Future, _Flight], waiting: deque[Shard], leases: ExitStack) -> None:
        """Start waiting shards until no worker is idle. One that another run is computing goes to the end."""
        for _ in range(len(waiting)):
            if len(flying) == self.executor.capacity:
                return
            shard = waiting.popleft()
            if self.is_finished(shard):
                self.report(shard, "found")
            elif (flight := self._take_off(shard, leases)) is not None:
                self.report(shard, "started")
                flying[self._submit(flight)] = flight
            elif self._can_start(shard):
                waiting.append(shard)

    def _take_off(self, shard: Shard, leases: ExitStack) -> _Flight | None:
        """Lease a shard and read what it takes; None where that is not to be had now, or changed meanwhile."""
        key, release = self.key(shard), leases.enter_context(ExitStack())
        lease = release.enter_context(self.store.lease(key))
        if lease is not None and not self.store.path(key).exists():
            pictures = [_open(photograph) if shard.looks else "" for photograph in shard.photographs]
            needed = None if shard.needs is None else self.load(shard.needs)
            if self.key(shard) == key and (shard.needs is None or needed is not None):
                return _Flight(shard, (shard.kind, shard.arguments, pictures, needed), lease, release)
        release.close()
        return None

    def _submit(self, flight: _Flight) -> Future:
        return self.executor.submit("compute", *flight.call)

    def _submit_again(self, flight: _Flight) -> Future:
        """A flight whose worker died."""
        flight.deaths += 1
        if flight.deaths == self.executor.attempts:
            raise InputError(
                f"workers died {ATTEMPTS} times in a row, computing {flight.shard.label}; they may need more memory: "
                "use fewer workers, or smaller batches in the profile."
            ) from None
        return self._submit(flight)

    def _land(self, flight: _Flight, arrays: Arrays) -> None:
        flight.lease.finish(arrays)
        flight.release.close()
        self.report(flight.shard, "finished")


def _open(photograph: Picture) -> Image.Image | str:
    """The picture, or the reason why it cannot be read."""
    try:
        return photograph.open()
    except InputError as error:
        return str(error)
