"""Take notebooks to the site: run them, clean them for readers or write a note instead, stage them, build the pages."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import yaml
from nbformat import NotebookNode

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import GAMES

if TYPE_CHECKING:  # an import of jupyter_client
    from perceptual_lib.book.kernels import Kernels

SETTINGS = "_config.yml", "_toc.yml"
"""Jupyter Book's two files."""
FAILED = """````{{admonition}} This section could not be computed
:class: danger
There is nothing to show of its notebook in this build (profile {profile}):

```text
{message}
```

The other sections do not depend on it. The next build tries it again.
````
"""
WAITING = """```{{note}}
This section has not been computed yet (profile {profile}).
While a build is at work, load this page again in some minutes.
```
"""
STAND_IN = "https://github.com/perceptual-ball/perceptual-ball"
"""The repository's address in the sources; staging replaces it by that of the clone's remote."""
FRONT = {"text/html": "front.html", "text/markdown": "front.md"}
"""MIME type of an output of a cell tagged `front-page` -> the file that the front page includes."""
CHUNK = re.compile(r'(?P<element><script type="text/plain" id="(?P<name>chunk-\w+)".*?</script>)\n', re.S)
"""Matches the script element that holds an array in an explorer's HTML."""


def compute(source: Path, target: Path, parameter: str, profile: str, kernels: "Kernels", games: float = 0.0) -> None:
    """Run a notebook of a clone; `target`, its computed copy, appears only if every cell ran.

    The notebook runs with `parameter` as its `profile`; the copy shows the profile's name `profile`. A line below its
    title says how long it took and, before it, the `games` that it plays (seconds). Raises what papermill raises.
    """
    import papermill  # takes a second to import, and is often not needed

    running = target.parent / "running" / source.name
    running.parent.mkdir(parents=True, exist_ok=True)
    with running.with_suffix(".log").open("w") as log:
        papermill.execute_notebook(
            source,
            running,
            {"profile": parameter},
            kernel_name="python3",
            kernel_manager_class=kernels.manager(source.parent, log),
            language="python",
            progress_bar=False,
            iopub_timeout=60,  # seconds that a busy machine may take to hand an explorer over
            request_save_on_cell_execute=False,
            autosave_cell_every=0,
        )
    nbformat.write(_clean(nbformat.read(running, 4), profile, games), running)
    running.replace(target)


def reason(error: Exception) -> str:
    """The error in one line, as Python prints it at the end of a traceback."""
    name = getattr(error, "ename", type(error).__name__)
    words = str(getattr(error, "evalue", error)).strip()
    return f"{name}: {words.splitlines()[0]}" if words else name


def games_of(source: Path) -> list[str]:
    """The games that a notebook plays, found in its code: it calls `play`, or makes an experiment."""
    code = "".join(cell.source for cell in nbformat.read(source, 4).cells if cell.cell_type == "code")
    calls = re.findall(r'(?s)play\(\s*profile,\s*"\.\."(.*?)\)', code)
    made = [game for game, name in GAMES.items() if f"{name}(profile" in code]
    return made + [game for names in calls for game in re.findall(r"\w+", names) or GAMES]


def write_note(source: Path, note: Path, profile: str, message: str | None = None) -> None:
    """Write a page in place of a notebook: its title, and that it failed with this message, or has not run (None)."""
    notebook = nbformat.read(source, 4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"(?m)^# .+", prose)
    why = WAITING if message is None else FAILED
    text = f"{title[0] if title else f'# {source.stem}'}\n\n{why.format(profile=profile, message=message)}"
    cell = nbformat.v4.new_markdown_cell(text, id="note")  # not a random id: the same failure gives the same page
    note.parent.mkdir(parents=True, exist_ok=True)
    half = note.with_suffix(".half")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=notebook.metadata), half)
    half.replace(note)  # at once, because a site may be built from the note at this moment


def _clean(notebook: NotebookNode, profile: str, games: float) -> NotebookNode:
    """Add the running time; remove the injected cell, progress bars, warnings, and paths of this machine."""
    _say_how_long(notebook, profile, games)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "parameters" in tags(cell):
            cell.source = re.sub(r'(?m)^profile = ".*?"', f'profile = "{profile}"', cell.source)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    return notebook


def _say_how_long(notebook: NotebookNode, profile: str, games: float) -> None:
    """Add a line below the title, for whoever plans a class. It does not count what was in the store already."""
    line = f"*This page took {_in_words(notebook.metadata.papermill.duration)} to compute"
    line += f", and its games {_in_words(games)} before it" if games else ""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    line += f" (profile {profile}; {machine}), without what was finished already.*"
    first = notebook.cells[0]
    title, _, text = first.source.partition("\n")
    first.source = f"{title}\n\n{line}\n{text}"


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell, such as "parameters"."""
    return cell.metadata.get("tags", [])


def environment(root: Path) -> dict[str, str]:
    """Environment variables for a process that imports this clone's library, even if another one is installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


def render(root: Path, out: Path, shown: Sequence[Path], waiting: Sequence[str], strict: bool) -> None:
    """Stage a clone's prose and the notebooks as readers see them, and have Jupyter Book build `out/html` from them.

    The front page says which sections are `waiting` to be computed. If Jupyter Book finds an error (if `strict`, also a
    warning), it is printed, no site is left, and InputError is raised. A site that is not `strict` is built
    incrementally: only what has changed since the one before it is read again.
    """
    stage, html = out / "stage", out / "html"
    shutil.rmtree(html, ignore_errors=True)
    fill(stage, root, shown, waiting)
    made = run_sphinx(root, stage, out / "logs" / "site.log", "html", strict)
    shutil.copytree(made, html)
    if strict:
        shutil.rmtree(made.parents[1])


def run_sphinx(root: Path, stage: Path, log: Path, builder: str, strict: bool) -> Path:
    """Run Jupyter Book on a stage with one of Sphinx's builders, and return the folder of what it built.

    If `strict`, it starts from nothing, and warnings count as errors. Errors are printed, and InputError is raised.
    """
    log.parent.mkdir(exist_ok=True)
    made = stage.with_name("sphinx")
    if strict:
        shutil.rmtree(made, ignore_errors=True)
    # Garbage collection would take half of its time; without it, only 40 MB of garbage pile up.
    code = "import gc; gc.disable(); from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", code, "build", str(stage)]
    command += ["--path-output", str(made), "--builder", "custom", "--custom-builder", builder]
    command += ["-W", "--keep-going"] if strict else []
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=root, env=environment(root), stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        print("".join(f"      | {line}\n" for line in _complaints(log.read_text())), end="", flush=True)
        raise InputError(f"Jupyter Book could not build the {log.stem}; its log is {os.path.relpath(log)}")
    return made / "_build" / builder


def fill(stage: Path, root: Path, shown: Sequence[Path], waiting: Sequence[str]) -> None:
    """Fill a stage anew with what Jupyter Book reads. Unchanged files keep their time, so that it skips them."""
    before = stage.with_name(f"{stage.name}-before")
    shutil.rmtree(before, ignore_errors=True)
    if stage.exists():
        stage.rename(before)
    shutil.copytree(
        root / "book", stage / "book", ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
    )
    shutil.copy2(str(files("perceptual_lib.core") / "perturbation.py"), stage / "book")  # for equations.md
    for name in SETTINGS:
        shutil.copy(root / name, stage)
    (stage / "notebooks").mkdir()
    for page in shown:
        stage_page(page, stage / "notebooks" / page.name, stage / "book" / "_static")
    _address(stage, repository(root))
    _announce(stage / "book" / "index.md", waiting)
    for path in filter(Path.is_file, stage.rglob("*")):
        old = before / path.relative_to(stage)
        if old.is_file() and old.read_bytes() == path.read_bytes():
            shutil.copystat(old, path)
    shutil.rmtree(before, ignore_errors=True)


def _announce(front: Path, waiting: Sequence[str]) -> None:
    if waiting:
        note = f"```{{note}}\nThis book is being computed. Still to come: {', '.join(waiting)}.\n```"
        text = front.read_text(encoding="utf-8")
        front.write_text(re.sub(r"(?m)^# .+$", rf"\g<0>\n\n{note}", text, count=1), encoding="utf-8")


def repository(root: Path) -> str | None:
    """The web address of the repository that a clone comes from, by its remote `origin`; None without a remote."""
    if not (root / ".git").exists():  # git would answer for a repository around the folder
        return None
    with suppress(OSError):  # no git
        asked = ["git", "-C", str(root), "remote", "get-url", "origin"]
        remote = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        host = re.fullmatch(
            r"(?:https?://|ssh://)?(?:[^@/]+@)?([\w-]+(?:\.[\w-]+)+)(?::\d+(?=/))?[:/](.+?)(?:\.git)?/?", remote
        )
        return host and f"https://{host[1]}/{host[2]}"
    return None


def _address(stage: Path, repository: str | None) -> None:
    """Write the repository's address into staged pages and settings. Pages have buttons only for one on GitHub."""
    path = stage / SETTINGS[0]
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if repository is not None and repository.startswith("https://github.com/"):
        settings["repository"]["url"] = repository
    else:
        del settings["repository"], settings["launch_buttons"]
        settings["html"] |= {"use_repository_button": False, "use_issues_button": False}
    if repository is not None:
        for page in (*stage.glob("book/*.md"), *stage.glob("notebooks/*.ipynb")):
            page.write_text(page.read_text(encoding="utf-8").replace(STAND_IN, repository), encoding="utf-8")
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def stage_page(page: Path, staged: Path, static: Path) -> None:
    """Copy a computed notebook with its findings first, and move the data of its explorers into files of the site.

    Each array of its explorers becomes a script `explorer/NAME.js`, so that a reader fetches only what is looked at.
    It is a script because pages on `file://` may not fetch data. The HTML or Markdown of a cell tagged `front-page`
    replaces the front page's figure or headline, whose placeholders say that there is none.
    """
    notebook = nbformat.read(page, 4)
    outputs = [(cell, output.get("data", {})) for cell in notebook.cells for output in cell.get("outputs", [])]
    for cell, data in outputs:
        if 'class="explorer"' in data.get("text/html", ""):
            (static / "explorer").mkdir(exist_ok=True)
            for element, name in CHUNK.findall(data["text/html"]):
                code = f"document.head.insertAdjacentHTML('beforeend', {json.dumps(element)});\n"
                (static / "explorer" / f"{name}.js").write_text(code, encoding="utf-8")
            data["text/html"] = CHUNK.sub("", data["text/html"])
        for kind, name in FRONT.items():
            if "front-page" in tags(cell) and kind in data:
                (static / name).write_text(data[kind], encoding="utf-8")
    notebook.cells = _findings_first(notebook.cells)
    nbformat.write(notebook, staged)


def _findings_first(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Move the cells tagged `findings` and the output of the one tagged `main-figure` above "You will learn".

    A section computes them last, but a reader with ten minutes reads no further than the top.
    """
    found = [cell for cell in cells if "findings" in tags(cell)]
    figures = [
        nbformat.from_dict(cell | {"id": "main-figure", "metadata": cell.metadata | {"tags": ["remove-input"]}})
        for cell in cells
        if "main-figure" in tags(cell)
    ]
    rest = [_folded(cell) if "main-figure" in tags(cell) else cell for cell in cells[1:] if cell not in found]
    before, learn, after = cells[0].source.partition("**You will learn**")
    if learn:
        rest.insert(0, nbformat.v4.new_markdown_cell(learn + after, id="learn"))
    return [nbformat.from_dict(cells[0] | {"source": before}), *found, *figures, *rest]


def _folded(cell: NotebookNode) -> NotebookNode:
    """The cell that made the figure at the top, collapsed in its own place."""
    shown = {"code_prompt_show": "Show the figure at the top again, and its code"}
    about = {"tags": ["hide-cell"], "mystnb": cell.metadata.get("mystnb", {}) | shown}
    return nbformat.from_dict(cell | {"metadata": cell.metadata | about})


def _complaints(log: str) -> list[str]:
    """The lines of Sphinx's log that say what is wrong, or its last 15 lines if none does."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in log.splitlines()]
    return [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|Error:", line)] or lines[-15:]
