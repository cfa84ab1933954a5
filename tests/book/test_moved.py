"""Links that were sent before something moved."""

from pathlib import Path

import pytest
from browser import new_tab
from playwright.sync_api import Browser

STATIC = Path(__file__).parents[2] / "book" / "_static"


@pytest.mark.slow
def test_a_link_to_the_triangle_opens_it_where_it_is_now(tmp_path: Path, browser: Browser) -> None:
    for name in ("4.1-sensitivity", "4.2-weak-localization"):
        script = (STATIC / "moved.js").read_text(encoding="utf-8")
        (tmp_path / f"{name}.html").write_text(f"<!doctype html><script>{script}</script><h1>{name}</h1>", "utf-8")
    old = (tmp_path / "4.2-weak-localization.html").as_uri()
    with new_tab(browser) as tab:
        for state, page in (("#sensitivity.layers=2-5&sensitivity.sigma=7", "4.1-sensitivity"), ("#table-1", old)):
            tab.goto(old + state)
            tab.wait_for_url(f"**/{page.rpartition('/')[2].removesuffix('.html')}.html{state}")
            assert tab.locator("h1").inner_text() in page
