"""The book of the profile smoke on a desk: every page from a server, in light and dark."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import complaints, new_context, new_tab, served, wake
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Response
from visits import Visit, find_missing_pictures, pages, told, width_of

from perceptual_lib.book.scoreboard import CLAIMS

pytestmark = pytest.mark.slow

IN_THE_DARK = ["book/index.html", *(f"notebooks/{name}.html" for name in ("explorer", "3-methodology", "scoreboard"))]
"""Pages that have, between them, all that has colours."""
MEGABYTE = 1e6
LIMITS = {True: 6 * MEGABYTE, False: 1.5 * MEGABYTE}  # with an explorer, without


@dataclass(frozen=True)
class DeskVisit(Visit):
    """What only a desk shows, or is looked for only there."""

    size: int
    has_explorer: bool
    cut_tables: list[str]
    barriers: list[str]
    barriers_in_the_dark: list[str]


@pytest.fixture(scope="module")
def on_a_desk(smoke_book: Path, browser: Browser) -> dict[str, DeskVisit]:
    """The pages that somebody wrote."""
    site = smoke_book / "_build" / "html"
    desk = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
    with served(site) as address, new_context(browser, **desk) as context:
        return {name: visit_desk(context, address, name) for name in pages(site) if not name.startswith("_modules")}


def visit_desk(context: BrowserContext, address: str, name: str) -> DeskVisit:
    with context.new_page() as tab:
        heard = complaints(tab, address)
        size = weigh(tab, f"{address}/{name}")
        wake(tab)
        missing, cut = find_missing_pictures(tab), find_cut_tables(tab)
        heard = list(heard)  # axe-core itself fetches style sheets, and misses some
        light, dark = find_barriers(tab, "light"), []
        if name in IN_THE_DARK:
            tab.emulate_media(color_scheme="dark")
            dark = find_barriers(tab, "dark")
        return DeskVisit(heard, missing, width_of(tab), size, has_explorer(tab), cut, light, dark)


def weigh(tab: Page, address: str) -> int:
    """Bytes of everything that a first visit fetches, but for pictures further down that may never be seen.

    What the browser has kept from other pages is told of, and counts, too.
    """
    replies: list[Response] = []
    tab.on("response", lambda reply: replies.append(reply))
    tab.goto(address)
    if has_explorer(tab):
        tab.wait_for_load_state("networkidle")  # it asks for its arrays a little later
    lazy = tab.eval_on_selector_all("img[loading=lazy]", "all => all.map(image => image.src)")
    return sum(len(reply.body()) for reply in list(replies) if reply.url not in lazy)


def find_barriers(tab: Page, scheme: str) -> list[str]:
    """What axe-core calls serious or critical: the rule, how often, and the first place."""
    tab.locator(f"html[data-theme={scheme}]").wait_for()
    # Words of code and entries of the API reference look as others of their kind: ten of each are half of the time.
    tab.evaluate("""() => {
        const seen = {};
        for (const each of document.querySelectorAll(".highlight span, dl.py")) {
            seen[each.className] = (seen[each.className] ?? 0) + 1;
            if (seen[each.className] > 10) each.remove();
        }
    }""")
    tab.add_style_tag(content="*, *::before, *::after { transition: none !important }")  # from one scheme to the other
    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}), {len(rule['nodes'])} x, {rule['nodes'][0]['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def find_cut_tables(tab: Page) -> list[str]:
    """The heads of tables that are wider than the part of the page which they stand in, where they would scroll."""
    return tab.evaluate("""() => [...document.querySelectorAll("article table")].filter(table => {
        const frames = (box) => box && !["auto", "scroll"].includes(getComputedStyle(box).overflowX);
        let room = table.parentElement;
        while (frames(room) && room.tagName !== "ARTICLE") room = room.parentElement;
        return table.getBoundingClientRect().right > room.getBoundingClientRect().right + 1;
    }).map(table => table.rows[0].innerText)""")


def has_explorer(tab: Page) -> bool:
    return tab.locator(".explorer").count() > 0


def test_pages_open_without_a_complaint(on_a_desk: dict[str, DeskVisit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.complaints)) == []


def test_every_picture_can_be_seen(on_a_desk: dict[str, DeskVisit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.missing_pictures)) == []


def test_no_table_is_cut_off_on_a_desk(on_a_desk: dict[str, DeskVisit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.cut_tables)) == []


def test_everybody_can_read_it(on_a_desk: dict[str, DeskVisit]) -> None:
    assert list(told(on_a_desk, lambda visit: visit.barriers)) == []
    assert list(told(on_a_desk, lambda visit: visit.barriers_in_the_dark)) == []


def test_pages_are_light(on_a_desk: dict[str, DeskVisit]) -> None:
    assert set(IN_THE_DARK) <= set(on_a_desk)
    assert {name: visit.size for name, visit in on_a_desk.items() if visit.size > LIMITS[visit.has_explorer]} == {}


def test_in_the_dark_pictures_stay_and_what_is_around_them_is_dark(smoke_book: Path, browser: Browser) -> None:
    with new_tab(browser) as tab:
        tab.goto((smoke_book / "_build/html/notebooks/4.2-weak-localization.html").as_uri())
        figure = tab.locator(".around-panels").first
        seen = {}
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            figure.scroll_into_view_if_needed()
            tab.wait_for_function("document.querySelector('.around-panels img').complete")
            seen[scheme] = np.asarray(Image.open(BytesIO(figure.screenshot())).convert("L"), dtype=int)
        moved = abs(seen["dark"] - seen["light"])
        assert (moved > 200).mean() > 0.2 and (moved <= 2).mean() > 0.5  # paper, pictures


def test_claims_are_filtered_by_verdict_and_opened_in_place(smoke_book: Path, browser: Browser) -> None:
    with new_tab(browser) as tab:
        tab.goto((smoke_book / "_build/html/notebooks/scoreboard.html").as_uri())
        cells, boxes = tab.locator(".claims details"), tab.locator(".claims input")
        assert cells.count() == len(CLAIMS)
        counts = [int(label.rpartition(": ")[2]) for label in tab.locator(".claims label").all_inner_texts()]
        assert sum(counts) == len(CLAIMS)
        for box in range(4):
            for other in range(4):
                boxes.nth(other).set_checked(other == box)
            assert sum(cell.is_visible() for cell in cells.all()) == counts[box]
        for box in boxes.all():
            box.check()
        places = "all => all.map(each => each.getBoundingClientRect()).map(({ left, top }) => [left, top])"
        row = "[role=group]:has(summary:focus) summary"
        cell = tab.locator(".claims summary:visible").first
        cell.focus()
        before = tab.eval_on_selector_all(row, places)
        cell.press("Enter")
        text = tab.locator(".claims [open] blockquote:visible")
        text.wait_for()
        assert tab.eval_on_selector_all(row, places) == before  # its row stays as it is
        assert text.bounding_box()["y"] > before[-1][1]
        assert tab.locator(".claims [open] dd").count() >= 2
