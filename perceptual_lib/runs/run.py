"""A run: shards through an executor into a store.

    shards ──> key: finished? ──> lease ──> worker (a loaded network) ──> file ──> arrays

The run reads the pictures and writes the files; workers only compute.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import ExitStack, closing
from typing import Any

from PIL import Image

from perceptual_lib.core.errors import InputError, MachineError, see
from perceptual_lib.runs.executors import Executor
from perceptual_lib.runs.shard import Picture, Shard, check_code
from perceptual_lib.runs.store import Arrays, Store

ATTEMPTS = 3  # to compute a shard whose worker dies
POLL = 1.0  # seconds between two looks at what another run is computing
Flight = Generator[Future, None, None]
"""A shard that is being computed: each future is a call that it waits for."""


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
        """What a worker's method returns. Raises InputError if the worker dies of the call."""
        try:
            return self.executor.submit(name, *arguments).result()
        except BrokenExecutor:
            raise InputError(
                f"a worker died while it was asked for its {name}; it may need more memory{see('Workers that die')}."
            ) from None

    def key(self, shard: Shard) -> str:
        """The shard's key on this run's network, with its photographs as they are now."""
        return shard.key(self.network)

    def load(self, shard: Shard) -> Arrays | None:
        """A shard's arrays; None if it is not finished."""
        key = self.key(shard)
        arrays = self.store.load(key)
        (self.verified.discard if arrays is None else self.verified.add)(key)
        return arrays

    def is_finished(self, shard: Shard) -> bool:
        """Whether the shard's file is there and whole; a whole one is read once in a run."""
        return self.key(shard) in self.verified or self.load(shard) is not None

    def with_needed(self, shards: Sequence[Shard]) -> dict[str, Shard]:
        """By key, the shards that some of these need, then these; shards with the same key are one."""
        return {self.key(each): each for each in (*(shard.needs for shard in shards if shard.needs), *shards)}

    def unfinished(self, shards: Sequence[Shard]) -> list[Shard]:
        """Of the shards and those that they need, the ones that are not finished; what is needed comes first."""
        both = self.with_needed(shards).items()
        return [each for key, each in both if key not in self.verified and self.load(each) is None]

    def complete(self, shards: Sequence[Shard]) -> None:
        """Compute what is not finished, and what that needs.

        Raises InputError where a shard's worker dies again and again, or the store cannot be written. What is finished
        stays.
        """
        while unfinished := self.unfinished(shards):  # again: photographs may have changed meanwhile
            with ExitStack() as flights:  # whatever happens, all leases are released
                self._complete(unfinished, flights)

    def _can_start(self, shard: Shard) -> bool:
        return shard.needs is None or self.is_finished(shard.needs)

    def _complete(self, unfinished: list[Shard], flights: ExitStack) -> None:
        """Compute the costliest first, so that workers end together; what needs another, once that is finished."""
        waiting: deque[Shard] = deque()
        behind: defaultdict[str, list[Shard]] = defaultdict(list)
        for shard in sorted(unfinished, key=lambda shard: shard.cost, reverse=True):
            (waiting if self._can_start(shard) else behind[self.key(shard.needs)]).append(shard)
        flying: dict[Future, tuple[Flight, Shard]] = {}
        while waiting or flying:
            ended = self._fill(flying, waiting, flights)
            if waiting and not flying and not ended:  # another run is computing what is left
                time.sleep(POLL)
            for call in wait(flying, return_when=FIRST_COMPLETED).done:
                flight, shard = flying.pop(call)
                if (again := next(flight, None)) is None:
                    ended.append(shard)
                else:
                    flying[again] = flight, shard
            for shard in ended:
                waiting.extendleft(behind.pop(self.key(shard), ()))

    def _fill(
        self, flying: dict[Future, tuple[Flight, Shard]], waiting: deque[Shard], flights: ExitStack
    ) -> list[Shard]:
        """Start waiting shards until no worker is idle; return those that were found finished.

        A shard that another run is computing goes to the end of the queue.
        """
        found = []
        for _ in range(len(waiting)):
            if len(flying) == self.executor.capacity:
                break
            shard = waiting.popleft()
            if self.is_finished(shard):
                self.report(shard, "found")
                found.append(shard)
            elif (call := next(flight := self._fly(shard), None)) is not None:
                flying[call] = flights.enter_context(closing(flight)), shard
            elif self._can_start(shard):
                waiting.append(shard)
        return found

    def _fly(self, shard: Shard) -> Flight:
        """A shard from its lease to its file. Ends at once if another run has it, or its inputs have changed."""
        key = self.key(shard)
        with self.store.lease(key) as free:
            if not free or self.store.path(key).exists():
                return
            pictures = [_open(photograph) if shard.looks else "" for photograph in shard.photographs]
            needed = None if shard.needs is None else self.load(shard.needs)
            if self.key(shard) != key or (shard.needs is not None and needed is None):
                return
            self.report(shard, "started")
            for _ in range(ATTEMPTS):
                call = self.executor.submit("compute", shard.kind, shard.arguments, pictures, needed)
                yield call
                if not isinstance(call.exception(), BrokenExecutor):
                    break
            else:
                raise InputError(
                    f"workers died {ATTEMPTS} times in a row, computing {shard.label}; they may need more memory: "
                    f"use fewer workers, or smaller batches in the profile{see('Workers that die')}."
                )
            check_code()
            self.store.save(key, call.result())
        self.report(shard, "finished")


def _open(photograph: Picture) -> Image.Image | str:
    """The picture, or the reason why it cannot be read."""
    try:
        return photograph.open()
    except MachineError:
        raise
    except InputError as error:
        return str(error)
