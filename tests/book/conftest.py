"""Shared by the tests of the book: a copy of the repository with the book built in it, a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # most tests here need no browser
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def smoke_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, and the book built there from the profile smoke."""
    from perceptual_lib.book.pipeline import build

    clone = tmp_path_factory.mktemp("clone")
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)
    assert build("smoke", clone) == 0
    return clone


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from browser import OPTIONS, chromium
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: install chromium, or Google's Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()
