"""From pages to the site: what Sphinx reads is staged, and Jupyter Book makes `_build/html` of it."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from os.path import relpath
from pathlib import Path

import nbformat

from perceptual_lib.book.pages import environment, tags
from perceptual_lib.core.errors import InputError

SETTINGS = "_config.yml", "_toc.yml"
"""Jupyter Book's two files."""
CHUNK = re.compile(r'(?P<element><script type="text/plain" id="(?P<name>chunk-\w+)".*?</script>)\n', re.S)
"""An array as `explorer.widget.chunk_element` writes it."""


def render(root: Path, out: Path, shown: Sequence[Path], strict: bool) -> None:
    """Stage the pages and let Jupyter Book make the site of them, from nothing.

    Args:
        root: a clone of the repository.
        out: gets the folders `stage`, `html` and `logs`.
        shown: the notebooks as readers see them: computed, or notes in their place.
        strict: whether a warning is an error.

    Raises:
        InputError: Jupyter Book finds an error, which is printed; no site is left.
    """
    stage, sphinx, log = out / "stage", out / "sphinx", out / "logs" / "site.log"
    for previous in (stage, out / "html"):
        shutil.rmtree(previous, ignore_errors=True)
    _fill(stage, root, shown)
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(stage)]
    command += ["--path-output", str(sphinx), "--all", *(["-W", "--keep-going"] if strict else [])]
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=root, env=environment(root), stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        print("".join(f"      | {line}\n" for line in _complaints(log.read_text())), end="", flush=True)
        raise InputError(f"Jupyter Book could not build the site; its log is {relpath(log)}")
    (sphinx / "_build" / "html").replace(out / "html")
    shutil.rmtree(sphinx)


def _fill(stage: Path, root: Path, shown: Sequence[Path]) -> None:
    shutil.copytree(root / "book", stage / "book", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SETTINGS:
        shutil.copy2(root / name, stage)
    (stage / "notebooks").mkdir()
    staged = [Path(shutil.copy2(page, stage / "notebooks")) for page in shown]
    static = stage / "book" / "_static"
    for page in staged:
        split_chunks(page, static / "explorer")
    if picture := front_picture(staged):  # else the one that says that there is none
        (static / "front.jpg").write_bytes(picture)


def split_chunks(page: Path, folder: Path) -> None:
    """Move the arrays of a page's explorers out of it, each into a script of its own.

    A reader then fetches what is looked at, and no more. Scripts, because `file://` forbids to fetch data.

    Args:
        page: a computed notebook, which is written anew.
        folder: gets `NAME.js` for each array that an explorer of the page asks for by this name.
    """
    notebook = nbformat.read(page, 4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    explorers = [data for data in outputs if 'class="explorer"' in data.get("text/html", "")]
    for data in explorers:
        folder.mkdir(parents=True, exist_ok=True)
        for element, name in CHUNK.findall(data["text/html"]):
            code = f"document.head.insertAdjacentHTML('beforeend', {json.dumps(element)});\n"
            (folder / f"{name}.js").write_text(code, encoding="utf-8")
        data["text/html"] = CHUNK.sub("", data["text/html"])
    if explorers:
        nbformat.write(notebook, page)


def front_picture(pages: Iterable[Path]) -> bytes | None:
    """The JPEG that a cell tagged `front-page` computed."""
    cells = [cell for page in pages for cell in nbformat.read(page, 4).cells if "front-page" in tags(cell)]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return next((base64.b64decode(each["image/jpeg"]) for each in data if "image/jpeg" in each), None)


def _complaints(log: str) -> list[str]:
    """The lines of Sphinx's log that tell what is wrong, or its end where none does."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in log.splitlines()]
    return [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|Error:", line)] or lines[-15:]
