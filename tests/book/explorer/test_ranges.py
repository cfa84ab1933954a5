"""Which layers are held, in a browser: two handles, two buttons, the triangle of the ranges that were tried."""

from functools import partial
from pathlib import Path

from browser import new_tab
from layers_page import RANGES, Layers, as_map, changed, drawn, seen, slide, written
from playwright.sync_api import Browser, Page

from perceptual_lib.book.explorer.widget import array_chunk


def test_the_handles_push_each_other_and_snap(tab: Page) -> None:
    first, last = tab.get_by_label("first layer held"), tab.get_by_label("last layer held")
    shown = tab.locator("[aria-label='Layers held'] > output")
    assert shown.inner_text() == "layers 0 to 3"
    first.focus()
    tab.keyboard.press("ArrowRight")
    assert shown.inner_text() == "layers 2 to 3"
    tab.keyboard.press("ArrowRight")
    assert shown.inner_text() == "layers 4 to 5"
    last.focus()
    tab.keyboard.press("Home")
    assert shown.inner_text() == "layers 0 to 1"
    assert tab.locator(".ranges [aria-checked=true]").get_attribute("aria-label") == "layers 0 to 1: error not known"


def test_the_handles_have_stops_of_their_own(browser: Browser, tmp_path: Path) -> None:
    about = Layers().about
    ranges = [each | {"error": None} for each in about["ranges"] if each["layers"] in ("0-1", "0-3")]
    with new_tab(browser) as tab:
        tab.goto(written(Layers(about=about | {"ranges": ranges}), tmp_path))
        drawn(tab)
        first, last = tab.get_by_label("first layer held"), tab.get_by_label("last layer held")
        assert [each.get_attribute("max") for each in (first, last)] == ["0", "1"]
        assert not first.is_visible() and last.is_visible()  # all begin with layer 0: there is nothing to move
        assert tab.locator(".ranges").count() == 0  # there is no error to colour it by
        before = seen(tab)
        slide(last, 0)
        assert changed(before, seen(tab)) == {"map", "overlay", "cut"}
        assert tab.locator("[aria-label='Layers held'] > output").inner_text() == "layers 0 to 1"


def test_arrow_keys_walk_through_the_ranges(tab: Page) -> None:
    tab.locator(".ranges [tabindex='0']").focus()
    shown = tab.locator("[aria-label='Layers held'] > output")
    for key, words in [
        ("ArrowRight", "layers 0 to 5"),
        ("ArrowRight", "layers 0 to 5"),
        ("ArrowDown", "layers 2 to 5"),
        ("ArrowLeft", "layers 2 to 3"),
        ("ArrowLeft", "layers 2 to 3"),
        ("ArrowUp", "layers 0 to 3"),
    ]:
        tab.keyboard.press(key)
        assert shown.inner_text() == words
        assert tab.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"


def test_a_range_is_looked_at_in_passing_and_chosen_by_a_click(tab: Page) -> None:
    before, cells = seen(tab), tab.get_by_role("radio")
    assert [each.strip() for each in cells.all_inner_texts()] == ["", "0.45", "0.50", "0.55", "0.60", "0.65"]
    cells.nth(4).hover()
    assert changed(before, seen(tab)) == {"map", "overlay", "cut"}
    assert tab.locator("[aria-label='Layers held'] > output").inner_text() == f"layers {RANGES[4].replace('-', ' to ')}"
    tab.mouse.move(0, 0)
    assert changed(before, seen(tab)) == set()
    cells.nth(4).click()
    tab.mouse.move(0, 0)
    assert changed(before, seen(tab)) == {"map", "overlay", "cut"}
    own = tab.get_by_role("button", name="Default")
    assert own.get_attribute("aria-pressed") == "false"
    own.click()
    assert changed(before, seen(tab)) == set() and own.get_attribute("aria-pressed") == "true"


def test_no_layer_is_held_by_a_press_and_the_default_again(tab: Page, tmp_path: Path, browser: Browser) -> None:
    assert tab.get_by_role("button", name="None").count() == 0  # there are no such maps
    page = Layers()
    page.arrays = {**Layers.arrays, "map/cat/no_perceptual/": partial(array_chunk, as_map(30))}
    free = {"name": "no_perceptual", "title": "NoPer", "note": "", "layered": False, "ours": True}
    words = {"map/cat/no_perceptual/": "kite"}
    small = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    names, more = ("cat", "dog", "cow"), {"boxes": [], "target": 0, "classes": [], "thumbnail": small}
    cats = [{"name": name, "title": name, "explained": name} | more for name in names]
    page.about = page.about | {"methods": [*page.about["methods"], free], "becomes": words, "photographs": cats}
    with new_tab(browser) as other:
        other.goto(written(page, tmp_path))
        drawn(other)
        before, held = seen(other), other.locator("[aria-label='Layers held'] > output")
        none, default = (other.get_by_role("button", name=name, exact=True) for name in ("None", "Default"))
        assert default.get_attribute("aria-pressed") == "true" != none.get_attribute("aria-pressed")
        none.click()
        drawn(other)
        assert held.inner_text() == "no layer" and none.get_attribute("aria-pressed") == "true"
        assert "cat → kite" in other.locator(".result").inner_text() and "map" in changed(before, seen(other))
        other.wait_for_function("location.hash.includes('layers.method=no_perceptual')")
        with new_tab(browser) as linked:
            linked.goto(other.url)
            drawn(linked)
            slide(linked.get_by_label("last layer held"), 0)  # has its stops from the beginning
            drawn(linked)
            assert linked.locator("[aria-label='Layers held'] > output").inner_text() == "layers 0 to 1"
        other.get_by_role("radio").nth(4).hover()
        assert held.inner_text() != "no layer"
        other.mouse.move(0, 0)  # only looked at
        assert held.inner_text() == "no layer" and other.get_by_label("Method").input_value() == "no_perceptual"
        other.get_by_label("Method").select_option("perceptual")
        drawn(other)
        assert changed(before, seen(other)) == set()  # the layers are those of before
        none.click()
        drawn(other)
        slide(other.get_by_label("last layer held"), 0)
        drawn(other)
        assert held.inner_text() == "layers 0 to 1" and other.get_by_label("Method").input_value() == "perceptual"
        default.click()
        drawn(other)
        assert changed(before, seen(other)) == set()
        strip = other.get_by_role("group", name="Photographs").get_by_role("button")
        assert strip.count() == 3
        strip.nth(1).press("Enter")
        other.wait_for_function("location.hash.includes('layers.photograph=dog')")
        assert strip.nth(1).get_attribute("aria-pressed") == "true"


def test_links_to_the_old_triangle_open_the_same_map(tab: Page, browser: Browser, tmp_path: Path) -> None:
    tab.get_by_role("radio", name="layers 2 to 5").click()
    before = seen(tab)
    with new_tab(browser) as other:
        other.goto(
            written(Layers(address="sensitivity"), tmp_path) + "#sensitivity.photograph=cat&sensitivity.layers=2-5"
        )
        assert changed(before, seen(other)) == set()
        other.get_by_role("radio", name="layers 0 to 1").click()
        other.wait_for_function("location.hash.includes('sensitivity.layers=0-1')")


def test_layers_are_not_asked_of_a_method_without_them(tab: Page) -> None:
    tab.get_by_label("Method").select_option("grad_cam")
    drawn(tab)
    assert not tab.locator(".held").is_visible()
    tab.get_by_label("Method").select_option("perceptual")
    drawn(tab)
    assert tab.locator("[aria-label='Layers held'] > output").inner_text() == "layers 0 to 3"
