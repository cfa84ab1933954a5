"""Row 7: what a user waits for at the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contest import Contest
from perceptual_lib import load_photographs

ROOT = Path(__file__).parents[1]
COMMAND = str(Path(sys.executable).with_name("perceptual-ball"))


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def seconds_of(contest: Contest, row: str, title: str, most: float, *command: str) -> None:
    contest(row, title, units=1, unit="run", ours=lambda: run(*command), others={}, limits={"seconds": most})


def test_book_with_nothing_changed(contest: Contest) -> None:
    if not (ROOT / "_build" / "html" / "index.html").exists():
        pytest.skip("the book is not built: make book, then make bench again")
    seconds_of(contest, "7a", "make book with nothing changed", 5.0, "make", "book")


def test_import(contest: Contest) -> None:
    code = "import perceptual_lib, sys; assert 'torch' not in sys.modules"
    seconds_of(contest, "7b", "import perceptual_lib, in a new Python", 0.5, sys.executable, "-c", code)


def test_explain_one_photograph(contest: Contest, tmp_path: Path) -> None:
    photograph = str(load_photographs(limit=1)[0].path)
    command = COMMAND, "explain", photograph, "--out", str(tmp_path)
    seconds_of(contest, "7c", "perceptual-ball explain, one photograph", 30.0, *command)
