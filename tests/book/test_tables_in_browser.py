"""What tables.js makes of tables, in a real browser, on a page as the book's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import new_tab, served
from playwright.sync_api import Browser, Page

STATIC = Path(__file__).parents[2] / "book" / "_static"
PAGE = """<!doctype html>
<html data-theme="light"><meta charset="utf-8"><link rel="stylesheet" href="book.css">
<script defer src="tables.js"></script>
<article class="bd-article"><table class="dataframe">
<thead><tr><th></th><th>error</th><th>paper</th></tr><tr><th>method</th><th></th><th></th></tr></thead>
<tbody>
<tr><th>gradient</th><td>0.43 (0.40 to 0.46)</td><td>10<br>of 12</td></tr>
<tr><th>centre</th><td>1.2e-3</td><td></td></tr>
<tr><th>RISE</th><td>\u22120.5</td><td>9<br>of 12</td></tr>
</tbody></table>
<table><thead><tr><th>a</th><th>b</th></tr></thead>
<tbody><tr><th rowspan="2">1</th><td>2</td></tr><tr><td>3</td></tr></tbody></table>
<table id="signs"><thead><tr><th>claim</th><th>holds</th></tr></thead><tbody>
<tr><td>a</td><td>✗</td></tr><tr><td>b</td><td>–</td></tr><tr><td>c</td><td>✓</td></tr><tr><td>d</td><td>✗</td></tr>
</tbody></table>
<table><tbody><tr><td>no heads, no data</td></tr></tbody></table>
<div style="overflow-x: auto; width: 200px"><table class="grouped">
<thead><tr><th>one group</th><th>here</th></tr></thead>
<tbody><tr><td>thing</td><td style="min-width: 600px">yes</td></tr>
<tr><td><strong>another</strong></td><td>here</td></tr></tbody></table></div>
</article></html>"""


@pytest.fixture
def tab(request: pytest.FixtureRequest, tmp_path: Path, browser: Browser) -> Iterator[Page]:
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    for name in ("book.css", "tables.js"):
        (tmp_path / name).write_text((STATIC / name).read_text(encoding="utf-8"), encoding="utf-8")
    with served(tmp_path) as address, new_tab(browser, viewport={"width": 390, "height": 800}) as tab:
        tab.goto(f"{address if getattr(request, 'param', '') == 'server' else tmp_path.as_uri()}/page.html")
        yield tab


def first_column(tab: Page) -> list[str]:
    return tab.locator("table.dataframe tbody th").all_inner_texts()


def test_a_short_cell_is_one_line_on_a_phone(tab: Page) -> None:
    tab.evaluate("document.querySelector('article').classList.add('cell_output')")
    table = tab.locator("table.dataframe")
    table.evaluate("table => (table.style.width = '10px')")
    assert table.locator("td").first.bounding_box()["width"] > 100  # the room of "0.43 (0.40 to 0.46)"


def test_a_column_goes_up_then_down_then_back(tab: Page) -> None:
    head = tab.get_by_role("columnheader", name="error")
    orders = {None: ["gradient", "centre", "RISE"], "ascending": ["RISE", "centre", "gradient"]}
    orders["descending"] = orders["ascending"][::-1]
    for direction in ("ascending", "descending", None, "ascending"):
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == direction and first_column(tab) == orders[direction]


def test_numbers_are_numbers_and_empty_cells_last(tab: Page) -> None:
    button = tab.get_by_role("button", name="paper")
    button.click()
    assert first_column(tab) == ["RISE", "gradient", "centre"]
    button.click()
    assert first_column(tab) == ["gradient", "RISE", "centre"]
    tab.get_by_role("button", name="method").click()  # its head is in the second row
    assert first_column(tab) == ["centre", "gradient", "RISE"]
    assert tab.locator("[aria-sort]").count() == 1


def test_signs_are_sorted_and_a_dash_is_nothing(tab: Page) -> None:
    tab.locator("#signs").get_by_role("button", name="holds").click()
    signs = "".join(tab.locator("#signs tbody td:last-child").all_inner_texts())
    assert signs in ("✗✗✓–", "✓✗✗–")


def test_merged_cells_stay_where_they_are(tab: Page) -> None:
    assert tab.locator(".table-sort").count() == 5 and tab.locator(".table-tools").count() == 4


def test_the_first_column_of_a_table_in_groups_stays(tab: Page) -> None:
    assert tab.locator(".grouped .table-sort").count() == 0  # its groups would be torn apart
    left, first, second = tab.evaluate("""() => {
        const table = document.querySelector(".grouped"), box = table.parentElement;
        box.scrollLeft = 150;
        return [box, ...table.rows[1].cells].map(each => each.getBoundingClientRect().left);
    }""")
    assert abs(first - left) <= 1 and second < left + 150


@pytest.mark.parametrize("tab", ["server", "disk"], indirect=True)
def test_a_table_can_be_copied(tab: Page) -> None:
    tab.evaluate("document.addEventListener('copy', () => (window.copied = String(getSelection())))")
    tab.evaluate("navigator.clipboard && (navigator.clipboard.writeText = async text => (window.copied = text))")
    for table, expected in enumerate(
        [
            "\terror\tpaper\nmethod\t\t\ngradient\t0.43 (0.40 to 0.46)\t10 of 12\n"
            "centre\t1.2e-3\t\nRISE\t\u22120.5\t9 of 12",
            "a\tb\n1\t2\n\t3",
        ]
    ):
        tab.get_by_role("button", name="Copy table").nth(table).click()
        assert tab.get_by_role("status").nth(table).inner_text() == "Copied"
        assert tab.evaluate("window.copied") == expected


def test_nothing_jumps(tab: Page) -> None:
    places = "[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().toJSON())"
    after = tab.evaluate(places)
    tab.route("**/tables.js", lambda route: route.abort())
    tab.reload()
    assert tab.locator(".table-tools").count() == 0 and tab.evaluate(places) == after
