"""The real notebooks, with the profile that is made for this: all sections computed, the site whole."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from test_site import broken_links, remote_requests

from perceptual_lib.pipeline import build

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, and the book built there."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)
    assert build("smoke", clone) == 0
    return clone


@pytest.mark.slow
def test_the_site_is_whole(clone: Path) -> None:
    site = clone / "_build" / "html"
    assert remote_requests(site) == [] and broken_links(site) == []
    for page in ("1-introduction", "3-methodology", "4-explanations", "4.2-weak-localization"):
        text = (site / "notebooks" / f"{page}.html").read_text()
        assert "could not be computed" not in text and "What was found" in text
        assert re.search(r"colab\.research\.google\.com/github/[^\"]*/notebooks/" + page, text)


@pytest.mark.slow
def test_every_figure_has_an_alternative_text(clone: Path) -> None:
    for page in (clone / "_build" / "notebooks" / "smoke").glob("*.ipynb"):
        for cell in nbformat.read(page, 4).cells:
            if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
                described = cell.metadata["mystnb"]
                assert len(described["image"]["alt"]) > 30 and len(described["figure"]["caption"]) > 30


@pytest.mark.slow
def test_front_page_shows_a_computed_picture(clone: Path) -> None:
    assert (clone / "_build" / "html" / "_static" / "front.png").exists() or (
        any((clone / "_build" / "html" / "_images").glob("front*.png"))
    )
