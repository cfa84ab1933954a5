"""The book of the profile smoke: every notebook computed, and every page opened from a disk on a phone."""

import re
from pathlib import Path

import nbformat
import pytest
from browser import complaints, new_context, new_tab, wake
from links import broken_links, remote_requests
from playwright.sync_api import Browser, BrowserContext
from visits import Visit, find_missing_pictures, pages, told, width_of

from perceptual_lib.book.pages import games_of

pytestmark = pytest.mark.slow

PHONE = 360


@pytest.fixture(scope="module")
def site(smoke_book: Path) -> Path:
    return smoke_book / "_build" / "html"


@pytest.fixture(scope="module")
def computed(smoke_book: Path) -> dict[str, nbformat.NotebookNode]:
    paths = (smoke_book / "_build" / "notebooks" / "smoke").glob("*.ipynb")
    return {path.stem: nbformat.read(path, 4) for path in paths}


@pytest.fixture(scope="module")
def on_a_phone(site: Path, browser: Browser) -> dict[str, Visit]:
    """The pages that somebody wrote; of the listings of the library's code, made by one template, the three longest."""
    listings = [name for name in pages(site) if name.startswith("_modules")]
    longest = sorted(listings, key=lambda name: (site / name).stat().st_size)[-3:]
    written = [name for name in pages(site) if name not in listings]
    with new_context(browser, viewport={"width": PHONE, "height": 740}) as context:  # one: a new one takes a second
        return {name: visit_phone(context, site.as_uri(), name) for name in [*written, *longest]}


def visit_phone(context: BrowserContext, address: str, name: str) -> Visit:
    with context.new_page() as tab:
        heard = complaints(tab, address)
        tab.goto(f"{address}/{name}")
        wake(tab)
        width = width_of(tab)
        return Visit(heard, find_missing_pictures(tab), width)


def test_the_site_is_whole(site: Path, computed: dict[str, nbformat.NotebookNode]) -> None:
    assert remote_requests(site) == [] and broken_links(site) == []
    assert set(computed) == {path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")}
    for name in computed:
        text = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert "could not be computed" not in text
        assert re.search(r"colab\.research\.google\.com/github/[^\"]*/notebooks/" + name, text)
        plays = bool(games_of(Path(__file__).parents[2] / "notebooks" / f"{name}.ipynb"))
        assert plays == bool(re.search(r"This page took [\d.]+ \w+ to compute, and its games [\d.]+ \w+ before", text))


def has_caption(cell: nbformat.NotebookNode) -> bool:
    return "figure" in cell.metadata.get("mystnb", {})


def test_every_figure_has_an_alternative_text(computed: dict[str, nbformat.NotebookNode]) -> None:
    cells = [cell for page in computed.values() for cell in page.cells]
    figures = [
        cell.metadata["mystnb"]
        for cell in cells
        for data in [output.get("data", {}) for output in cell.get("outputs", [])]
        if any(mime.startswith("image/") for mime in data) and "text/html" not in data  # an explorer, with its still
    ]
    assert len(figures) > 20
    shown = {cell.id: len([each for each in cell.outputs if "data" in each]) for cell in cells if has_caption(cell)}
    assert {cell: count for cell, count in shown.items() if count > 1} == {}  # each output would have the caption
    assert all(len(each["image"]["alt"]) > 30 and len(each["figure"]["caption"]) > 30 for each in figures)


def test_the_front_page_shows_what_was_computed(site: Path, computed: dict[str, nbformat.NotebookNode]) -> None:
    tagged = [
        cell for page in computed.values() for cell in page.cells if "front-page" in cell.metadata.get("tags", [])
    ]
    data = [output.data for cell in tagged for output in cell.outputs if "data" in output]
    [headline] = [each["text/markdown"] for each in data if "text/markdown" in each]
    assert 'class="explorer"' in (site / "book" / "index.html").read_text(encoding="utf-8")
    bold = re.search(r"\*\*(.+?)\*\*", headline, re.S)[1].replace("\n", " ")
    assert bold in (site / "book" / "index.html").read_text(encoding="utf-8").replace("\n", " ")


def test_pages_open_without_a_complaint(on_a_phone: dict[str, Visit]) -> None:
    assert list(told(on_a_phone, lambda visit: visit.complaints)) == []


def test_every_picture_can_be_seen(on_a_phone: dict[str, Visit]) -> None:
    assert list(told(on_a_phone, lambda visit: visit.missing_pictures)) == []


def test_no_equation_scrolls_on_a_phone(site: Path, browser: Browser) -> None:
    with new_tab(browser, viewport={"width": PHONE, "height": 740}) as tab:
        tab.goto((site / "notebooks" / "3-methodology.html").as_uri())
        widths = "all => all.map(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)"
        assert set(tab.eval_on_selector_all("div.math .equation", widths)) == {0}


def test_search_finds_the_pages_of_the_book_before_those_of_the_library(site: Path, browser: Browser) -> None:
    with new_tab(browser) as tab:
        tab.goto(f"{(site / 'search.html').as_uri()}?q=perceptual")
        found = tab.locator("ul.search li a")
        tab.wait_for_function("document.querySelectorAll('ul.search li').length > 50")
        places = [link.get_attribute("href") for link in found.all()]
        of_library = ["book/api.html" in place or "_modules/" in place for place in places]
        assert of_library == sorted(of_library) and 0 < sum(of_library) < len(places) - 10


def test_nothing_scrolls_sideways_on_a_phone(on_a_phone: dict[str, Visit]) -> None:
    assert {name: visit.width for name, visit in on_a_phone.items() if visit.width > PHONE} == {}
