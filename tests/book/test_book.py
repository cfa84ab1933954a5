"""The real notebooks, with the profile that is made for this: all sections computed, the site whole."""

import re
from pathlib import Path

import nbformat
import pytest
from test_site import broken_links, remote_requests


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
            types = [mime for output in cell.get("outputs", []) for mime in output.get("data", {})]
            if any(mime.startswith("image/") for mime in types):
                described = cell.metadata["mystnb"]
                assert len(described["image"]["alt"]) > 30 and len(described["figure"]["caption"]) > 30


@pytest.mark.slow
def test_front_page_shows_a_computed_picture(clone: Path) -> None:
    assert (clone / "_build" / "html" / "_static" / "front.jpg").exists() or (
        any((clone / "_build" / "html" / "_images").glob("front*.jpg"))
    )
