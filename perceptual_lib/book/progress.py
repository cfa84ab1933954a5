"""The progress of a build of the book in the terminal."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from doit.reporter import ZeroReporter
from tqdm import tqdm


class Progress(ZeroReporter):
    """Prints a line when a step begins, with its last duration, and one when it ends: its duration, or its error."""

    def __init__(self, out: Path, steps: int):
        super().__init__(sys.stdout, {})
        self.step, self.steps = 0, steps
        self.started: dict[str, float] = {}
        self.file = out / "durations.json"
        self.durations: dict[str, float] = {}
        with suppress(OSError, ValueError):  # only a convenience: a missing or damaged file is no error
            self.durations = json.loads(self.file.read_text())

    def _begin(self, task: Any, more: str) -> None:
        self.step += 1
        say(f"[{self.step}/{self.steps}] {task.name}{more}")

    def skip_uptodate(self, task: Any) -> None:
        self._begin(task, ": up to date")

    def execute_task(self, task: Any) -> None:
        last = self.durations.get(task.name)
        self._begin(task, " ..." if last is None else f" ... ({last:.0f} s last time)")
        self.started[task.name] = time.monotonic()

    def add_success(self, task: Any) -> None:
        if "failed" in task.values:
            return say(f"      {task.name} FAILED: {task.values['failed']}")
        seconds = time.monotonic() - self.started[task.name]
        say(f"      {task.name}: done in {seconds:.0f} s")
        self.durations[task.name] = round(seconds, 1)
        self.file.write_text(json.dumps(self.durations, indent=1))

    def add_failure(self, task: Any, fail: Any) -> None:
        say(f"      {task.name} FAILED: {fail.get_msg().strip()}")


def say(line: str) -> None:
    """Print a line, above the bars of a terminal."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()
