"""Copies of the repository that books are built in."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
FIGURE = """
from IPython.display import HTML, display
display(HTML("<b>a figure</b>"))
"""
EQUATION = r"""
$$\left(M_i(x') - T\right)^2 + \lambda' \sum_{l \in \mathcal{L}} \|C^{(l)}(x') - C^{(l)}(x)\|_2^2$$ (eq5)

The last term of {eq}`eq5` is $\lambda \|x' - x\|_2^2$.
"""


def copy_repository(clone: Path) -> None:
    """What a build of the book reads, into an empty folder."""
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)


@contextmanager
def one_core(choose: Callable[[set[int]], int] = max) -> Iterator[None]:
    """The notebooks then compute in their kernels, without starting workers: the other cores are the other tests'."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {choose(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write_notebook(path: Path, title: str, *cells: tuple[str, str]) -> None:
    """A notebook of a title, the parameters, and cells (tag, source)."""
    tagged = [("parameters", 'profile = "demo"'), *cells]
    code = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}) for tag, source in tagged]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {title}"), *code], metadata=kernel)
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def small_clone(tmp_path: Path) -> Path:
    """A repository with the real settings and look, two tiny notebooks, and a library of one constant."""
    from perceptual_lib.book import pages

    for name in ("_ext", "_static", "_templates"):
        shutil.copytree(ROOT / "book" / name, tmp_path / "book" / name)
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/1-first\n- file: notebooks/2-second\n"
    )
    index = f"# The book\n\nIt was cloned from {pages.STAND_IN}.\n\n"
    index += "```{raw} html\n:file: _static/front.html\n```\n\n![small](small.png)\n\n[](../notebooks/1-first.ipynb)\n"
    Image.new("RGB", (40, 20), "#d55e00").save(tmp_path / "book" / "small.png")
    (tmp_path / "book" / "index.md").write_text(index + EQUATION)
    library = tmp_path / "perceptual_lib"
    library.mkdir()
    (library / "__init__.py").write_text("ANSWER = 41\n")
    write_notebook(tmp_path / "notebooks" / "1-first.ipynb", "First", ("front-page", FIGURE))
    second = 'import perceptual_lib, sys\nprint("noise", file=sys.stderr)\nprint(profile, perceptual_lib.ANSWER)'
    write_notebook(tmp_path / "notebooks" / "2-second.ipynb", "Second", ("", second))
    return tmp_path


def without_games(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The games that were computed: here it takes no time."""
    from perceptual_lib.book import pipeline

    names: list[str] = []

    def compute(book: pipeline.Book, game: str) -> None:
        names.append(f"{game} of {book.name}")
        book.store.mkdir(exist_ok=True)
        book.finished(game).touch()

    monkeypatch.setattr(pipeline, "_complete", compute)
    return names
