"""What a build of the book says of its steps in the terminal."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from doit.reporter import ZeroReporter


class Progress(ZeroReporter):
    """One line per step for the reader: which, how long it took last time, how long it took now, or why it failed."""

    def __init__(self, out: Path, steps: int):
        super().__init__(sys.stdout, {})
        self.step, self.steps = 0, steps
        self.started = 0.0
        self.file = out / "durations.json"
        self.durations: dict[str, float] = {}
        with suppress(OSError, ValueError):  # a convenience: none, or cut short, is as good as the first time
            self.durations = json.loads(self.file.read_text())

    def _begin(self, task: Any, more: str) -> None:
        self.step += 1
        print(f"[{self.step}/{self.steps}] {task.name}{more}", flush=True)

    def skip_uptodate(self, task: Any) -> None:
        self._begin(task, ": up to date")

    def execute_task(self, task: Any) -> None:
        last = self.durations.get(task.name)
        self._begin(task, " ..." if last is None else f" ... ({last:.0f} s last time)")
        self.started = time.monotonic()

    def add_success(self, task: Any) -> None:
        seconds = time.monotonic() - self.started
        print(f"      done in {seconds:.0f} s", flush=True)
        self.durations[task.name] = round(seconds, 1)
        self.file.write_text(json.dumps(self.durations, indent=1))

    def add_failure(self, task: Any, fail: Any) -> None:
        print(f"      FAILED: {fail.get_msg().strip()}", flush=True)
