"""The book of the profile smoke: every notebook computed, and every page opened in a browser, once at each width.

From a server on a desk, in light and dark, and from a disk on a phone.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import complaints, new_tab, served, wake
from links import broken_links, remote_requests
from playwright.sync_api import Browser, Page, Response

pytestmark = pytest.mark.slow

SCREENSHOTS = Path(__file__).parents[2] / "_build" / "screenshots"  # to be looked at; nothing is compared
IN_THE_DARK = ["book/index.html", *(f"notebooks/{name}.html" for name in ("explorer", "3-methodology", "scoreboard"))]
"""Pages that have, between them, all that has colours."""
MEGABYTE = 1e6
LIMITS = {True: 6 * MEGABYTE, False: 1.5 * MEGABYTE}  # with an explorer, without
PHONE = 360


@dataclass(frozen=True)
class Visit:
    """What was found on a page: one sentence for each thing that is wrong, and numbers."""

    complaints: list[str]
    missing_pictures: list[str]
    width: int
    size: int = 0
    has_explorer: bool = False
    cut_tables: list[str] = ()
    barriers: list[str] = ()
    barriers_in_the_dark: list[str] = ()


@pytest.fixture(scope="module")
def site(smoke_book: Path) -> Path:
    return smoke_book / "_build" / "html"


@pytest.fixture(scope="module")
def computed(smoke_book: Path) -> dict[str, nbformat.NotebookNode]:
    paths = (smoke_book / "_build" / "notebooks" / "smoke").glob("*.ipynb")
    return {path.stem: nbformat.read(path, 4) for path in paths}


@pytest.fixture(scope="module")
def on_a_desk(site: Path, browser: Browser) -> dict[str, Visit]:
    """The pages that somebody wrote."""
    with served(site) as address:
        return {name: visit_desk(browser, address, name) for name in pages(site) if not name.startswith("_modules")}


@pytest.fixture(scope="module")
def on_a_phone(site: Path, browser: Browser) -> dict[str, Visit]:
    """The same, and of the listings of the library's code, which one template makes, the three longest."""
    listings = [name for name in pages(site) if name.startswith("_modules")]
    longest = sorted(listings, key=lambda name: (site / name).stat().st_size)[-3:]
    written = [name for name in pages(site) if name not in listings]
    return {name: visit_phone(browser, site.as_uri(), name) for name in [*written, *longest]}


def pages(site: Path) -> list[str]:
    """All pages, but not the one that only leads to the first."""
    paths = (path.relative_to(site) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    return [path.as_posix() for path in paths if path != Path("index.html")]


def visit_desk(browser: Browser, address: str, name: str) -> Visit:
    with new_tab(browser, viewport={"width": 1280, "height": 800}, color_scheme="light") as tab:
        heard = complaints(tab, address)
        size = weigh(tab, f"{address}/{name}")
        wake(tab)
        missing, cut = find_missing_pictures(tab), find_cut_tables(tab)
        keep_screenshot(tab, "desk", name)
        heard = list(heard)  # axe-core itself fetches style sheets, and misses some
        light, dark = find_barriers(tab, "light"), []
        if name in IN_THE_DARK:
            tab.emulate_media(color_scheme="dark")
            dark = find_barriers(tab, "dark")
        return Visit(heard, missing, width_of(tab), size, tab.locator(".explorer").count() > 0, cut, light, dark)


def visit_phone(browser: Browser, address: str, name: str) -> Visit:
    with new_tab(browser, viewport={"width": PHONE, "height": 740}) as tab:
        heard = complaints(tab, address)
        tab.goto(f"{address}/{name}")
        wake(tab)
        width = width_of(tab)
        missing = find_missing_pictures(tab)
        if not name.startswith("_modules"):
            keep_screenshot(tab, "phone", name)
        return Visit(heard, missing, width)


def weigh(tab: Page, address: str) -> int:
    """Bytes of everything that a first visit fetches, but for pictures further down that may never be seen."""
    replies: list[Response] = []
    tab.on("response", lambda reply: replies.append(reply))
    tab.goto(address, wait_until="networkidle")  # explorers ask for their arrays a little later
    lazy = tab.eval_on_selector_all("img[loading=lazy]", "all => all.map(image => image.src)")
    return sum(len(reply.body()) for reply in list(replies) if reply.url not in lazy)


def find_barriers(tab: Page, scheme: str) -> list[str]:
    """What axe-core calls serious or critical: the rule, how often, and the first place."""
    tab.locator(f"html[data-theme={scheme}]").wait_for()
    # One template makes all entries of the API reference: with all of them axe-core takes a quarter of a minute.
    tab.evaluate("document.querySelectorAll('dl.py').forEach((entry, index) => index < 40 || entry.remove())")
    tab.add_style_tag(content="*, *::before, *::after { transition: none !important }")  # from one scheme to the other
    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}), {len(rule['nodes'])} x, {rule['nodes'][0]['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def find_missing_pictures(tab: Page) -> list[str]:
    """Those that cannot be shown, also of what would wait until the reader gets there."""
    return tab.evaluate("""async () => {
        const missing = await Promise.all([...document.images].map(image => {
            image.loading = "eager";
            return image.decode().then(() => [], () => [image.src]);
        }));
        return missing.flat();
    }""")


def find_cut_tables(tab: Page) -> list[str]:
    """The heads of tables that are wider than the part of the page which they stand in, where they would scroll."""
    return tab.evaluate("""() => [...document.querySelectorAll("article table")].filter(table => {
        const frames = (box) => box && !["auto", "scroll"].includes(getComputedStyle(box).overflowX);
        let room = table.parentElement;
        while (frames(room) && room.tagName !== "ARTICLE") room = room.parentElement;
        return table.getBoundingClientRect().right > room.getBoundingClientRect().right + 1;
    }).map(table => table.rows[0].innerText)""")


def width_of(tab: Page) -> int:
    return tab.evaluate("document.scrollingElement.scrollWidth")


def keep_screenshot(tab: Page, where: str, name: str) -> None:
    size = tab.evaluate("[document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]")
    top = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 15_000)}  # the API reference is 80,000 pixels high
    path = SCREENSHOTS / where / Path(name).with_suffix(".jpg")
    tab.screenshot(path=path, full_page=True, type="jpeg", clip=top)


def told(visits: dict[str, Visit], find: Callable[[Visit], list[str]]) -> Iterator[str]:
    """What was found on the pages: "page: what"."""
    return (f"{name}: {what}" for name, visit in visits.items() for what in find(visit))


def test_the_site_is_whole(site: Path, computed: dict[str, nbformat.NotebookNode]) -> None:
    assert remote_requests(site) == [] and broken_links(site) == []
    assert set(computed) == {path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")}
    for name in computed:
        text = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert "could not be computed" not in text
        assert re.search(r"colab\.research\.google\.com/github/[^\"]*/notebooks/" + name, text)


def test_every_figure_has_an_alternative_text(computed: dict[str, nbformat.NotebookNode]) -> None:
    figures = [
        cell.metadata["mystnb"]
        for page in computed.values()
        for cell in page.cells
        if any(mime.startswith("image/") for output in cell.get("outputs", []) for mime in output.get("data", {}))
    ]
    assert len(figures) > 20
    assert all(len(each["image"]["alt"]) > 30 and len(each["figure"]["caption"]) > 30 for each in figures)


def test_the_front_page_shows_what_was_computed(site: Path, computed: dict[str, nbformat.NotebookNode]) -> None:
    tagged = [
        cell for page in computed.values() for cell in page.cells if "front-page" in cell.metadata.get("tags", [])
    ]
    data = [output.data for cell in tagged for output in cell.outputs if "data" in output]
    [picture] = [each["image/jpeg"] for each in data if "image/jpeg" in each]
    [headline] = [each["text/markdown"] for each in data if "text/markdown" in each]
    assert (site / "_images" / "front.jpg").read_bytes() == base64.b64decode(picture)
    bold = re.search(r"\*\*(.+?)\*\*", headline, re.S)[1].replace("\n", " ")
    assert bold in (site / "book" / "index.html").read_text(encoding="utf-8").replace("\n", " ")


def test_pages_open_without_a_complaint(on_a_desk: dict[str, Visit], on_a_phone: dict[str, Visit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.complaints)) == []
    assert list(told(on_a_phone, lambda visit: visit.complaints)) == []


def test_every_picture_can_be_seen(on_a_desk: dict[str, Visit], on_a_phone: dict[str, Visit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.missing_pictures)) == []
    assert list(told(on_a_phone, lambda visit: visit.missing_pictures)) == []


def test_no_table_is_cut_off_on_a_desk(on_a_desk: dict[str, Visit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.cut_tables)) == []


def test_nothing_scrolls_sideways_on_a_phone(on_a_phone: dict[str, Visit]) -> None:
    assert {name: visit.width for name, visit in on_a_phone.items() if visit.width > PHONE} == {}


def test_everybody_can_read_it(on_a_desk: dict[str, Visit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.barriers)) == []
    assert list(told(on_a_desk, lambda visit: visit.barriers_in_the_dark)) == []


def test_pages_are_light(on_a_desk: dict[str, Visit]) -> None:
    assert set(IN_THE_DARK) <= set(on_a_desk)
    assert {name: visit.size for name, visit in on_a_desk.items() if visit.size > LIMITS[visit.has_explorer]} == {}
