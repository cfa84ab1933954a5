"""Shared by the tests of the book: a copy of the repository with the book built in it, a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import OPTIONS, chromium
from playwright.sync_api import Browser, sync_playwright

from perceptual_lib.book.pipeline import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, and the book built there."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)
    assert build("smoke", clone) == 0
    return clone


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: install chromium, or Google's Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()
