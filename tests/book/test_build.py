"""Books that are really built, small ones: papermill, Jupyter Book, what they complain of."""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from links import broken_links, remote_requests

pytest.importorskip("doit")  # the unit tests can do without it

from clones import edit, small_clone, without_games  # noqa: E402

from perceptual_lib.book import kernels, pages  # noqa: E402
from perceptual_lib.book.pipeline import build  # noqa: E402


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_games(monkeypatch)
    return small_clone(tmp_path)


def git(clone: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", clone, *arguments], check=True)


@pytest.mark.slow
def test_a_page_that_warns_is_an_error_with_its_line(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "compute", lambda source, target, *_: shutil.copy(source, target))
    (clone / "_build" / "notebooks" / "demo").mkdir(parents=True)
    (clone / "book" / "index.md").write_text("# The book\n\n$$\\nonsense$$\n\n{eq}`missing`\n")
    assert build("demo", clone) == 1
    output = capsys.readouterr().out
    assert "index.md:3: WARNING: equation that docutils cannot translate" in output
    assert "equation not found: missing" in output and "_build/logs/site.log" in output
    assert not (clone / "_build" / "html").exists()


@pytest.mark.slow
def test_from_notebooks_to_site(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing, twice: papermill and Jupyter Book, then one notebook that fails, and no remote any more.

    The kernels are those of systems where none is forked.
    """
    monkeypatch.setattr(kernels, "sys", SimpleNamespace(platform="darwin"))
    html = clone / "_build" / "html"
    git(clone, "init", "--quiet")
    git(clone, "remote", "add", "origin", "git@github.com:somebody/a-book.git")
    assert build("smoke", clone) == 0
    index, second = (
        (html / "book" / "index.html").read_text(),
        (html / "notebooks" / "2-second.html").read_text(),
    )
    assert "smoke 41" in second and "noise\n" not in second and "injected" not in second
    assert re.search(r"This page took \d+ seconds to compute \(profile smoke; \w+ .*\d cores\)", second)
    assert str(clone) not in second
    assert "<math" in index and "<munder>" in index and 'href="#equation-eq5"' in index
    assert "fontawesome.js" not in index and 'width="40" height="20"' in index and 'loading="lazy"' in index
    assert "<b>a figure</b>" in index
    assert "colab.research.google.com/github/somebody/a-book/blob/main/notebooks/2-second.ipynb" in second
    assert "cloned from https://github.com/somebody/a-book." in index and pages.STAND_IN not in index
    assert remote_requests(html) == [] and broken_links(html) == []

    edit(clone / "notebooks" / "1-first.ipynb", "display(HTML", "print('half a result'); nothing(HTML")
    edit(clone / "perceptual_lib" / "__init__.py", "41", "42")
    git(clone, "remote", "remove", "origin")
    assert build("smoke", clone) == 1
    first = (html / "notebooks" / "1-first.html").read_text()
    assert "could not be computed" in first and "name 'nothing' is not defined" in first
    assert "half a result" not in first and "Traceback" not in first
    second = (html / "notebooks" / "2-second.html").read_text()
    assert "smoke 42" in second and "colab" not in second and "github.com" not in second
    assert "has not been computed yet" in (html / "book" / "index.html").read_text()
    assert remote_requests(html) == [] and broken_links(html) == []
