"""The explorer of layers in a browser: its controls, by mouse, keys and address, and that what it says is so."""

import re
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import traitlets
from axe_playwright_python.sync_playwright import Axe
from browser import complaints, new_tab
from layers_page import RANGES, Layers, as_map, changed, drawn, fit, said, seen, slide, written
from playwright.sync_api import Browser, Page

from perceptual_lib.book.explorer.widget import array_chunk


def test_every_control_changes_what_it_should(tab: Page) -> None:
    def changes(act) -> set[str]:
        before = seen(tab)
        act()
        return changed(before, seen(tab))

    assert changes(lambda: slide(tab.get_by_label("Blur σ"), 3.3)) == {"map", "overlay", "cut"}
    assert changes(lambda: slide(tab.get_by_label("Opacity"), 0.2)) == {"overlay"}
    assert changes(lambda: slide(tab.get_by_label("Level α"), 0.2)) == {"cut"}
    assert changes(lambda: tab.get_by_role("radio", name="layers 2 to 5").click()) == {"map", "overlay", "cut"}
    assert changes(lambda: tab.get_by_label("Method").select_option("grad_cam")) == {"map", "overlay", "cut"}
    assert changes(lambda: tab.get_by_label("Photograph", exact=True).select_option("dog")) == {
        "photograph",
        "map",
        "overlay",
        "cut",
    }
    assert float(tab.locator(".explorer").get_attribute("data-redraw")) >= 0


class Settings(Layers):
    """The explorer with two weights and two targets, on the maps of the ranges."""

    layer_weight = traitlets.Unicode("100").tag(sync=True)
    margin_target = traitlets.Unicode("-2").tag(sync=True)
    arrays: ClassVar = Layers.arrays | {
        f"map/cat/perceptual {weight} {target}/0-3": partial(array_chunk, as_map(seed))
        for seed, (weight, target) in enumerate([("10", "-1"), ("10", "-2"), ("100", "-1"), ("100", "-2")])
    }


def test_weight_and_target_have_sliders(browser: Browser, tmp_path: Path) -> None:
    with new_tab(browser) as tab:
        heard = complaints(tab, "file:")
        tried = {"layer_weight": ["10", "100"], "margin_target": ["-1", "-2"]}
        tab.goto(written(Settings(address="settings", about=Layers().about | {"tried": tried}), tmp_path))
        weight, target = tab.get_by_label("Weight λ′"), tab.get_by_label("Target T")
        assert weight.get_attribute("aria-valuetext") == "100" and target.get_attribute("aria-valuetext") == "-2"
        before = seen(tab)
        assert tab.locator(".ranges").count() == 1
        slide(weight, 0)
        assert changed(before, seen(tab)) == {"map", "overlay", "cut"}
        assert "layer weight 10" in tab.locator(".panel canvas").nth(1).get_attribute("aria-label")
        slide(target, 0)
        assert weight.get_attribute("aria-valuetext") == "10" and target.get_attribute("aria-valuetext") == "-1"
        tab.wait_for_function("location.hash.includes('settings.margin_target=-1')")
        first = seen(tab)
        with new_tab(browser) as again:
            again.goto(tab.url)
            assert changed(first, seen(again)) == set()
        assert heard == []


def test_the_papers_methods_come_first(tab: Page) -> None:
    groups = tab.get_by_label("Method").locator("optgroup")
    assert groups.evaluate_all("all => all.map(group => group.label)") == ["The paper's", "Others"]
    assert groups.first.locator("option").all_inner_texts() == ["perceptual"]


@pytest.mark.parametrize(
    ("sigma", "strategy", "alpha"), [(0, "value", 0.5), (2, "value", 0.3), (5, "percent", 0.2), (9.5, "mean", 1.15)]
)
def test_the_fit_is_the_librarys(tab: Page, sigma: float, strategy: str, alpha: float) -> None:
    slide(tab.get_by_label("Blur σ"), sigma)
    tab.get_by_label("Cut by").select_option(strategy)
    slide(tab.get_by_label("Level α"), alpha)
    for layers in RANGES:
        tab.locator(".ranges button").nth(RANGES.index(layers)).click()
        expected = fit(f"map/cat/perceptual/{layers}", sigma, strategy, alpha)
        assert said(tab).split() == ["IoU", expected, *(["✓", "hit"] if float(expected) >= 0.5 else ["✗", "miss"])]


def test_another_strategy_keeps_the_cut(tab: Page) -> None:
    def kept() -> float:
        drawn(tab)
        words = tab.locator(".panel canvas").nth(3).get_attribute("aria-label")
        return float(re.match(r"([\d.]+) %", words)[1])

    before = kept()
    for strategy in ("percent", "mean", "value"):
        tab.get_by_label("Cut by").select_option(strategy)
        assert kept() == pytest.approx(before, abs=6)


def test_the_fit_is_heard_at_most_twice_a_second(tab: Page) -> None:
    tab.evaluate(
        """() => {
          window.heard = [];
          const note = () => window.heard.push(performance.now());
          new MutationObserver(note).observe(document.querySelector("[aria-live]"), { childList: true });
        }"""
    )
    for step in range(20):
        slide(tab.get_by_label("Level α"), 0.05 + step / 20)
        drawn(tab)
    tab.wait_for_function("document.querySelector('[aria-live]').innerText === 'IoU 0.000 miss'")
    slide(tab.get_by_label("Level α"), 0.05)
    tab.wait_for_function("document.querySelector('[aria-live]').innerText !== 'IoU 0.000 miss'")
    heard = tab.evaluate("window.heard")
    assert len(heard) > 1 and all(later - earlier > 450 for earlier, later in pairwise(heard))


def test_table_1_is_quoted_for_the_strategy_and_the_study_for_the_layers(tab: Page) -> None:
    facts = tab.locator(".facts")
    assert "cut by value: error 0.43 [0.35, 0.51], n = 150" in facts.inner_text()
    tab.get_by_label("Cut by").select_option("percent")
    drawn(tab)
    assert "cut by percent: error 0.52" in facts.inner_text()
    assert "error 0.45 at the best value threshold, 0.15 at the best of all thresholds (n = 4)" in facts.inner_text()
    tab.get_by_label("Method").select_option("grad_cam")
    drawn(tab)
    assert "error" not in facts.inner_text()


def test_without_a_box_there_is_no_fit(tab: Page) -> None:
    tab.get_by_label("Photograph", exact=True).select_option("dog")
    assert said(tab).strip() == "No box is known for this photograph: no IoU."
    assert tab.get_by_label("Photograph", exact=True).locator("option").nth(1).inner_text() == "<b>mastiff</b>"
    assert tab.locator(".boxes .box-true").count() == 0


def test_the_address_keeps_what_is_seen(tab: Page, browser: Browser) -> None:
    slide(tab.get_by_label("Blur σ"), 7.4)
    tab.get_by_label("Cut by").select_option("percent")
    slide(tab.get_by_label("Level α"), 0.25)
    tab.get_by_role("radio", name="layers 2 to 3").click()
    before = seen(tab)
    tab.wait_for_function("location.hash.includes('layers.layers=2-3')")
    with new_tab(browser) as again:
        again.goto(tab.url)
        assert changed(before, seen(again)) == set() and said(again) == said(tab)
        assert again.get_by_label("Cut by").input_value() == "percent"


def test_a_link_of_the_page_moves_the_widget(tab: Page) -> None:
    tab.evaluate(
        """() => document.querySelector("main").insertAdjacentHTML(
          "beforeend", '<a href="#" data-state="layers.layers=2-3&amp;layers.sigma=7">there</a>')"""
    )
    tab.get_by_role("link", name="there").click()
    tab.wait_for_function(
        "location.hash.includes('layers.sigma=7') && location.hash.includes('layers.method=perceptual')"
    )
    drawn(tab)
    assert tab.locator("[aria-label='Layers held'] > output").inner_text() == "layers 2 to 3"
    assert float(tab.get_by_label("Blur σ").input_value()) == 7
    tab.evaluate("() => document.querySelector('main > a').remove()")


def test_a_link_moves_an_explorer_that_is_not_seen_yet(browser: Browser, tmp_path: Path) -> None:
    above = '<a href="#" data-state="layers.sigma=7">there</a><div style="height: 9000px"></div>'
    page = f"<!doctype html><main>{above}{Layers(sigma=2.0).html()}</main>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with new_tab(browser) as tab:
        tab.goto((tmp_path / "page.html").as_uri())
        assert tab.locator("canvas").count() == 0
        tab.get_by_role("link", name="there").click()
        tab.locator(".explorer[data-redraw]").wait_for()
        assert float(tab.get_by_label("Blur σ").input_value()) == 7


def test_an_address_may_say_anything(tab: Page) -> None:
    nonsense = (
        "layers.photograph=x&layers.method=y&layers.layers=9-1&layers.sigma=-5&layers.strategy=z&layers.alpha=1e9"
    )
    tab.evaluate("nonsense => location.hash = nonsense", nonsense)
    tab.wait_for_function("document.querySelector('input').value === '0'")
    assert said(tab).split()[:2] == ["IoU", "0.000"]
    assert tab.get_by_label("Blur σ").input_value() == "0" and tab.get_by_label("Level α").input_value() == "1"


def test_a_map_that_is_not_there_leaves_the_last_one(tab: Page) -> None:
    before = seen(tab)
    tab.get_by_label("Method").select_option("lost")
    tab.wait_for_function("document.querySelector('.status').textContent !== ''")
    assert changed(before, seen(tab)) == set()
    assert tab.get_by_label("Method").input_value() == "perceptual"
    slide(tab.get_by_label("Blur σ"), 4)
    assert changed(before, seen(tab)) == {"map", "overlay", "cut"}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_everybody_can_use_it(tab: Page, theme: str) -> None:
    tab.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    tab.evaluate("document.body.style.background = 'var(--book-paper)'")
    serious = [rule for rule in Axe().run(tab).response["violations"] if rule["impact"] in ("serious", "critical")]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in serious] == []


def test_it_fits_a_phone(tab: Page) -> None:
    before = tab.viewport_size
    tab.set_viewport_size({"width": 360, "height": 740})
    assert tab.evaluate("document.scrollingElement.scrollWidth") == 360
    places = tab.eval_on_selector_all(".panel", "all => all.map(each => each.getBoundingClientRect().left)")
    assert places[0] == places[2] < places[1] == places[3]
    tab.set_viewport_size(before)
