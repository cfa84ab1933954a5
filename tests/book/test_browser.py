"""Every page of the book in a real browser: from a server and from a disk, narrow, dark, and as heavy as it is."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import complaints, new_tab, open_page, served
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

SCREENSHOTS = Path(__file__).parents[2] / "_build" / "screenshots"
IN_THE_DARK = ["book/index.html", *(f"notebooks/{name}.html" for name in ("explorer", "3-methodology", "scoreboard"))]
"""Pages that have, between them, all that has colours: all pages twice would take minutes."""
MEGABYTE = 1e6
LIMITS = {True: 6 * MEGABYTE, False: 1.5 * MEGABYTE}  # with an explorer, without


@pytest.fixture(scope="module")
def site(clone: Path) -> Path:
    return clone / "_build" / "html"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


def names(site: Path) -> list[str]:
    """All pages, but not the one that only leads to the first."""
    paths = (path.relative_to(site) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    return [str(path) for path in paths if path != Path("index.html")]


def format_table(site: Path) -> list[str]:
    """The pages that somebody wrote; the others are listings of the library's code."""
    return [name for name in names(site) if not name.startswith("_modules")]


def told(pages: list[str], check: Callable[[str], list[str]]) -> list[str]:
    """What a check has to say of the pages: "page: what"."""
    return [f"{name}: {what}" for name in pages for what in check(name)]


@pytest.mark.parametrize("place", ["server", "disk"])
def test_pages_open_without_a_complaint(site: Path, address: str, browser: Browser, place: str) -> None:
    root = address if place == "server" else site.as_uri()
    with new_tab(browser) as tab:
        heard = complaints(tab, root)

        def check(name: str) -> list[str]:
            heard.clear()
            open_page(tab, f"{root}/{name}")
            return list(heard)

        assert told(names(site), check) == []


def test_nothing_scrolls_sideways_on_a_phone(site: Path, address: str, browser: Browser) -> None:
    with new_tab(browser, viewport={"width": 360, "height": 740}) as tab:

        def check(name: str) -> list[str]:
            open_page(tab, f"{address}/{name}")
            width = tab.evaluate("document.scrollingElement.scrollWidth")
            return [f"{width} pixels wide"] if width > 360 else []

        assert told(names(site), check) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(site: Path, address: str, browser: Browser, scheme: str) -> None:
    with new_tab(browser, color_scheme=scheme) as tab:

        def check(name: str) -> list[str]:
            open_page(tab, f"{address}/{name}")
            assert tab.locator(f"html[data-theme={scheme}]").count() == 1
            return barriers(tab)

        assert told(format_table(site) if scheme == "light" else IN_THE_DARK, check) == []


def barriers(tab: Page) -> list[str]:
    """What axe-core calls serious or critical: the rule, how often, and the first place."""
    found = Axe().run(tab).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}), {len(rule['nodes'])} x, {rule['nodes'][0]['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def test_pages_are_light(site: Path, address: str, browser: Browser) -> None:
    def check(name: str) -> list[str]:
        with new_tab(browser) as tab:
            size = weight(tab, f"{address}/{name}")
            limit = LIMITS[tab.locator(".explorer").count() > 0]
            return [f"{size / MEGABYTE:.1f} MB"] if size > limit else []

    assert told(format_table(site), check) == []


def weight(tab: Page, address: str) -> int:
    """Bytes of everything that a first visit fetches, but for pictures further down that may never be seen."""
    replies = []
    tab.on("response", lambda reply: replies.append(reply))
    tab.goto(address, wait_until="networkidle")  # explorers ask for their arrays a little later
    lazy = tab.eval_on_selector_all("img[loading=lazy]", "all => all.map(image => image.src)")
    return sum(len(reply.body()) for reply in replies if reply.url not in lazy)


@pytest.mark.parametrize("width", [1280, 390])
def test_screenshots_are_kept(site: Path, address: str, browser: Browser, width: int) -> None:
    """Nothing is compared: they are there to be looked at."""
    with new_tab(browser, viewport={"width": width, "height": 800}) as tab:
        for name in format_table(site):
            open_page(tab, f"{address}/{name}")
            show_all_pictures(tab)
            picture = SCREENSHOTS / str(width) / Path(name).with_suffix(".png")
            tab.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 10_000


def show_all_pictures(tab: Page) -> None:
    """Load what would wait until the reader gets there."""
    tab.evaluate("""() => Promise.all([...document.images].map(image => {
        image.loading = "eager";
        return image.decode().catch(() => {});
    }))""")
