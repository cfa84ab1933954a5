"""Shared by the tests of the book: a copy of the repository with the book built in it, a browser."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from clones import copy_repository, one_core
from filelock import FileLock

if TYPE_CHECKING:  # most tests here need no browser
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def smoke_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, with fewer results, and the book built there from the profile smoke.

    The workers of a parallel run share it: the first that asks builds it, and others wait.
    """
    folder = tmp_path_factory.getbasetemp()
    clone = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "smoke-book"
    with FileLock(f"{clone}.lock"):
        if not clone.exists():
            build_smoke_book(clone)
    assert (clone / "_build" / "html" / "index.html").exists()
    return clone


def build_smoke_book(clone: Path) -> None:
    from perceptual_lib.book import pipeline

    copy_repository(clone)
    subprocess.run(["git", "init", "--quiet", clone], check=True)
    subprocess.run(["git", "-C", clone, "remote", "add", "origin", "https://github.com/somebody/a-book"], check=True)
    for path in (clone / "results").glob("*/*.parquet"):
        thin_out(path)
    with one_core(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_preview", lambda book: None)  # nobody reads them
        assert pipeline.build("smoke", clone) == 0


def thin_out(path: Path, count: int = 24) -> None:
    """Keep of each role of a published table the first photographs that all methods have: intervals take a minute."""
    table = pq.read_table(path)
    rows = table.to_pandas()
    unit = "scene" if "scene" in rows else "photograph"
    kept: set[str] = set()
    for _, of_role in rows.groupby("role"):
        kept.update(sorted(set.intersection(*of_role.groupby("method")[unit].agg(set)))[:count])
    pq.write_table(table.filter(rows[unit].isin(kept).to_numpy()), path)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from browser import OPTIONS
    from playwright.sync_api import sync_playwright

    from perceptual_lib.book.one_file import chromium

    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: install chromium, or Google's Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()
