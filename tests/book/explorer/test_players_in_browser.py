"""What a browser draws of the players is the library's, and they are used by keyboard, by mouse, on a phone."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from browser import complaints, new_tab
from PIL import Image
from players import picture, tile
from playwright.sync_api import Browser, Page

from perceptual_lib.book.explorer.widget import Widget
from perceptual_lib.evaluation.insertion_deletion.protocol import auc
from perceptual_lib.evaluation.randomization.table import randomization_curves


@pytest.fixture
def opened(browser: Browser, tmp_path: Path):
    """Opens a player as a page of its own, from a disk; a hash is what a link says."""
    tabs = []

    def open_player(widget: Widget, address: str = "", **settings) -> Page:
        path = tmp_path / "player.html"
        meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        path.write_text(f"<!doctype html>{meta}<body>{widget.html()}", encoding="utf-8")
        manager = new_tab(browser, **settings)
        tab = manager.__enter__()
        tabs.append((manager, complaints(tab, path.as_uri())))
        tab.goto(path.as_uri() + address)
        settled(tab)
        return tab

    yield open_player
    for manager, heard in tabs:
        manager.__exit__(None, None, None)
        assert heard == []


def settled(tab: Page) -> None:
    """Wait until what was asked for is drawn."""
    tab.wait_for_selector(".explorer[aria-busy=false]")


def pixels(tab: Page, index: int) -> np.ndarray:
    """What is drawn in a panel, (H, W, 3) of 0 to 255."""
    read = "index => document.querySelectorAll('figure.panel canvas')[index].toDataURL()"  # PNG, without a loss
    data = b64decode(tab.evaluate(read, index).partition(",")[2])
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def slide(tab: Page, label: str, value: int) -> None:
    tab.get_by_label(label, exact=True).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    settled(tab)


def select(tab: Page, label: str, value: str) -> None:
    tab.get_by_label(label, exact=True).select_option(value)
    settled(tab)


@pytest.mark.parametrize("game", ["deletion", "insertion"])
def test_a_frame_of_the_games_is_the_librarys(games, opened, game) -> None:
    tab = opened(games)
    select(tab, "Photograph", "1")
    select(tab, "Game", game)
    select(tab, "Map on the left", "perceptual, sigma 5")
    for done in (0, 3, 8):
        slide(tab, "Changed", done)
        changed = (games.steps("1", "perceptual, sigma 5") <= done)[..., None]
        whole, soft = (255 * picture(games, f"{kind}/1") for kind in ("picture", "blurred"))
        ends = (whole, np.array(games.about["grey"])) if game == "deletion" else (soft, whole)
        expected = np.where(changed, ends[1], ends[0])
        assert np.abs(pixels(tab, 0) - expected).max() <= 3  # decoders of pictures round in their own ways
        lines = games.experiment.table.query("photograph == '1' and method == 'perceptual' and sigma == 5")
        curve = np.asarray(lines[game].item(), dtype=float)
        said = f"perceptual, sigma 5\nprobability {curve[done]:.2f}, area {auc(curve):.2f}"
        assert tab.locator("figcaption").first.inner_text().strip() == said


def test_the_games_by_keyboard_and_by_play(games, opened) -> None:
    tab = opened(games)
    slider = tab.get_by_label("Changed", exact=True)
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "56 % of the pixels"
    tab.get_by_role("button", name="Play").click()
    tab.wait_for_function("() => document.querySelector('input[type=range]').value === '8'")
    tab.get_by_role("button", name="Play").wait_for()
    still = opened(games, reduced_motion="reduce")
    still.get_by_role("button", name="Step").click()
    settled(still)
    assert still.get_by_label("Changed", exact=True).input_value() == "4"


def test_a_link_shows_what_was_seen(games, opened) -> None:
    tab = opened(games)
    select(tab, "Map on the right", "perceptual, sigma 5")
    select(tab, "Game", "insertion")
    slide(tab, "Changed", 5)
    tab.wait_for_function("() => location.hash.includes('games.step=5')")
    other = opened(games, tab.evaluate("() => location.hash"))
    assert (pixels(other, 1) == pixels(tab, 1)).all()
    assert other.get_by_label("Game", exact=True).input_value() == "insertion"
    assert other.get_by_label("Map on the right", exact=True).input_value() == "perceptual, sigma 5"


def test_a_link_that_says_nonsense_shows_the_first(games, opened) -> None:
    tab = opened(games, "#games.photograph=nobody&games.left=nothing&games.game=chess&games.step=900")
    assert tab.get_by_label("Photograph", exact=True).input_value() == "0"
    assert tab.get_by_label("Changed", exact=True).input_value() == "8"
    assert tab.locator(".status").inner_text() == ""


def test_the_cascade_shows_the_stage_that_is_chosen(cascade, sanity, opened) -> None:
    tab = opened(cascade)
    select(tab, "Photograph", "2")
    select(tab, "Method", "perceptual")
    table = sanity.table.query("photograph == '2' and method == 'perceptual' and seed == 0").set_index("stage")
    means = randomization_curves(sanity.table)["perceptual"][1]
    for stage in range(len(cascade.about["stages"])):
        slide(tab, "Forgotten", stage)
        assert (pixels(tab, 2) == pixels(tab, 1)).all() == (stage == 0)
        line = table.loc[stage]
        words = tab.locator(".readout").all_inner_texts()
        assert f"rank correlation {line.correlation:.2f}, SSIM {line.ssim:.2f}" in words[0]
        assert f"{means.value[stage]:.2f} ({means.low[stage]:.2f} to {means.high[stage]:.2f}), n = 3" in words[1]
    assert sanity.layers[-1] in tab.locator("figcaption").nth(2).inner_text()


def test_the_triangle_by_keyboard_and_by_mouse(sensitivity, opened) -> None:
    tab = opened(sensitivity)
    first = pixels(tab, 1)
    tab.get_by_role("button", name="layers 0 to 0").focus()
    tab.keyboard.press("ArrowRight")
    settled(tab)
    assert "layers 0 to 1" in tab.evaluate("() => document.activeElement.getAttribute('aria-label')")
    tab.keyboard.press("ArrowDown")
    settled(tab)
    assert tab.get_by_role("button", pressed=True).get_attribute("aria-label").startswith("layers 1 to 1")
    by_key = pixels(tab, 1)
    assert (by_key != first).any()
    ranges = {each["layers"]: each for each in sensitivity.about["ranges"]}
    words = f"error {ranges['1-1']['value']:.2f} at the best value threshold, {ranges['1-1']['best']:.2f} at"
    assert words in tab.locator(".readout").inner_text() and "n = 2" in tab.locator(".readout").inner_text()
    tab.get_by_role("button", name="The profile's: 0-0").click()
    settled(tab)
    assert (pixels(tab, 1) == first).all()
    tab.get_by_role("button", name="layers 1 to 1").hover()
    settled(tab)
    assert (pixels(tab, 1) == by_key).all()


def test_the_search_shows_the_step_that_is_chosen(optimization, searched, opened) -> None:
    photographs, paths, margins = searched
    tab = opened(optimization)
    name = photographs[1].name
    select(tab, "Photograph", name)
    steps = optimization.about["steps"]
    for place in (0, 2, len(steps) - 1):
        slide(tab, "Step", place)
        for words, (path, values) in zip(tab.locator(".readout").all_inner_texts(), margins.items(), strict=True):
            margin = values[min(steps[place], len(paths[path]) - 1), 1]
            assert f"margin {margin:.2f}, {'class flipped' if margin <= 0 else 'class kept'}" in words
    own = pixels(tab, 3)
    slide(tab, "Change in the picture", 50)
    limit = optimization.about["paths"]["perceptual"]["limits"][name][-1]
    kept = len(optimization.about["paths"]["perceptual"]["steps"])
    change = (tile(picture(optimization, f"changes/{name}/perceptual"), kept - 1, kept) - 0.5) * 2 * limit
    expected = np.clip(255 * (picture(optimization, f"picture/{name}") + 50 * change), 0, 255)
    error = np.abs(pixels(tab, 3) - expected)
    assert np.median(error) <= 3 + 255 * 2 * limit * 50 / 255 and (pixels(tab, 3) != own).mean() > 0.5


@pytest.mark.parametrize("name", ["games", "cascade", "sensitivity", "optimization"])
def test_players_fit_a_phone(name, request, opened) -> None:
    tab = opened(request.getfixturevalue(name), viewport={"width": 360, "height": 740})
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
