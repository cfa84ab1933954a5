"""What a browser draws of the players is the library's, and they are used by keyboard, by mouse, on a phone."""

from base64 import b64decode
from io import BytesIO
from urllib.parse import quote

import numpy as np
import pytest
import torch
from browser import complaints, new_tab
from PIL import Image
from players import picture, tile
from playwright.sync_api import Browser, Page

from perceptual_lib.book.explorer.widget import Widget
from perceptual_lib.evaluation.insertion_deletion.protocol import auc
from perceptual_lib.evaluation.pointing.table import pointing_table
from perceptual_lib.evaluation.randomization.table import randomization_curves

PREFIXES = {
    "InsertionDeletionPlayer": "games",
    "CascadePlayer": "cascade",
    "OptimizationPlayer": "optimisation",
    "HeldPlayer": "held",
    "PointingPlayer": "pointing",
}
"""What a player's part of the address begins with: links are older than its name."""


@pytest.fixture(scope="module")
def open_player(browser: Browser, tmp_path_factory: pytest.TempPathFactory):
    """Opens a player as a page of its own, from a disk; a hash is what a link says."""
    tabs = []

    def open_player(widget: Widget, address: str = "", **settings) -> Page:
        path = tmp_path_factory.mktemp("player") / "player.html"
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


@pytest.fixture(scope="module")
def opened(open_player):
    """A player's page, opened once, as it was at first."""
    tabs: dict[str, Page] = {}

    def get(widget: Widget) -> Page:
        name = type(widget).__name__
        if name not in tabs:
            tabs[name] = open_player(widget)
            return tabs[name]
        tab, prefix = tabs[name], PREFIXES[name]
        traits = {name: value for name, value in widget.static_traits().items() if name != "about"}
        first = "&".join(f"{prefix}.{name}={quote(str(value))}" for name, value in traits.items())
        tab.wait_for_timeout(260)  # until what the last test changed is in the address
        tab.evaluate("first => location.hash = first", first)
        settled(tab)
        return tab

    return get


def settled(tab: Page) -> None:
    """Wait until what was asked for is drawn."""
    tab.evaluate("() => new Promise(requestAnimationFrame)")
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


def test_the_likeliest_classes_are_those_of_the_changed_picture(held, eight, classifier, opened) -> None:
    tab, deltas = opened(held), torch.randn(3, 1, 3, *classifier.input_size, generator=torch.Generator().manual_seed(0))
    assert not tab.get_by_label("Photograph", exact=True).is_visible()  # there is but one
    drawn = []
    for place, delta in enumerate(deltas):
        slide(tab, "Layers held", place)
        with torch.no_grad():
            shares, classes = classifier(classifier.preprocess(eight[:1]) + delta).softmax(1)[0].topk(3)
        told = [each.rpartition(", ") for each in tab.locator(".likely").last.locator(".bar").all_inner_texts()]
        assert [name for name, _, _ in told] == [classifier.class_name(index) for index in classes.tolist()]
        assert [float(share.strip(" %")) / 100 for _, _, share in told] == pytest.approx(shares.tolist(), abs=0.006)
        drawn.append(pixels(tab, 1))
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()


def test_the_games_by_keyboard_and_by_play(games, opened) -> None:
    tab = opened(games)
    slider = tab.get_by_label("Changed", exact=True)
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "50 % of the pixels"
    tab.get_by_role("button", name="Play").click()
    tab.wait_for_function("() => document.querySelector('input[type=range]').value === '8'")
    tab.get_by_role("button", name="Play").wait_for()


def test_a_link_shows_what_was_seen(games, opened, open_player) -> None:
    tab = opened(games)
    select(tab, "Map on the right", "perceptual, sigma 5")
    select(tab, "Game", "insertion")
    slide(tab, "Changed", 5)
    tab.wait_for_function("() => location.hash.includes('games.step=5')")
    other = open_player(games, tab.evaluate("() => location.hash"), reduced_motion="reduce")
    assert (pixels(other, 1) == pixels(tab, 1)).all()
    assert other.get_by_label("Game", exact=True).input_value() == "insertion"
    assert other.get_by_label("Map on the right", exact=True).input_value() == "perceptual, sigma 5"
    other.get_by_role("button", name="Step").click()  # for readers who want no motion
    settled(other)
    assert other.get_by_label("Changed", exact=True).input_value() == "6"


def test_a_link_that_says_nonsense_shows_the_first(games, opened) -> None:
    tab = opened(games)
    nonsense = "games.photograph=nobody&games.left=nothing&games.game=chess&games.step=900"
    tab.evaluate("nonsense => location.hash = nonsense", nonsense)
    tab.wait_for_function("() => document.querySelector('input[type=range]').value === '8'")
    settled(tab)
    assert tab.get_by_label("Photograph", exact=True).input_value() == "0"
    assert tab.get_by_label("Map on the left", exact=True).input_value() == "gradient, sigma 0"
    assert tab.locator(".status").inner_text() == ""


def test_a_link_of_the_search_opens_it(optimization, opened) -> None:
    tab = opened(optimization)
    tab.evaluate("() => location.hash = 'optimisation.step=2&optimisation.magnification=9'")
    tab.wait_for_function("() => document.querySelector('output').textContent.startsWith('2 of')")
    assert tab.get_by_label("Change in the picture").input_value() == "9"


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
    assert np.median(error) <= 1 and (pixels(tab, 3) != own).mean() > 0.5


def test_the_reader_points_first(points, pointing, opened) -> None:
    tab = opened(points)
    question = pointing.pictures[0].questions[0]
    assert tab.locator(".answers li").count() == 0 and tab.locator(".boxes rect").count() == 0
    left, top, right, bottom = question.boxes[0]
    canvas = tab.locator("canvas")
    share = canvas.bounding_box()["width"] / 448
    canvas.click(position={"x": (left + right) / 2 * share, "y": (top + bottom) / 2 * share})
    said = tab.locator(".answers li").all_inner_texts()
    assert said[0] == "You ✓ hit 1 of 1" and len(said) == 4 and tab.locator(".boxes rect").count() == 2
    lines = pointing.table[(pointing.table.scene == pointing.pictures[0].name)]
    lines = lines[lines.target == question.target].set_index(["method", "sigma"])
    sigmas = pointing_table(pointing.table, 1.0).sigma
    for words, method in zip(said[1:], ("center", "gradient", "perceptual"), strict=True):
        assert ("hit" in words) == (lines.distance[method, sigmas[method]] < 15), method
    order = tab.locator(".boxes:has(circle)").evaluate("layer => [...layer.children].map((each) => each.tagName)")
    assert order == ["circle", "text"] * 4  # no number is behind its disc
    canvas.click(position={"x": 3, "y": 3})  # the first word counts
    assert tab.locator(".answers li").first.inner_text() == "You ✓ hit 1 of 1"


def test_nobody_points_at_a_question_that_is_not_seen_yet(points, opened) -> None:
    tab = opened(points)
    first = tab.locator("figcaption").inner_text()
    clicked = """() => {
      document.querySelector(".pointing button").click();
      document.querySelector("canvas").click();
      return document.querySelector("figcaption").textContent;
    }"""
    assert tab.evaluate(clicked) == first  # still, and the click was for what is to come
    tab.wait_for_function("first => document.querySelector('figcaption').textContent !== first", arg=first)
    assert tab.locator(".answers li").count() == 0


def test_the_reader_points_by_keyboard_and_may_miss(points, pointing, opened) -> None:
    tab = opened(points)
    tab.evaluate("() => location.hash = 'pointing.question=7'")
    tab.wait_for_function("() => document.querySelector('figcaption').textContent.startsWith('Question 8 of 8')")
    canvas = tab.locator("canvas")
    canvas.focus()
    left, top, right, bottom = pointing.pictures[1].questions[3].boxes[0]
    for _ in range(20):  # into the corner of another photograph
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowUp")
    assert left > 224 and top > 224 and tab.locator(".point").count() == 1
    tab.keyboard.press("Enter")
    assert tab.locator(".answers li").first.inner_text().startswith("You ✗ miss")
    tab.get_by_role("button", name="Next question").click()
    tab.wait_for_function("() => document.querySelector('figcaption').textContent.startsWith('Question 1 of 8')")


@pytest.mark.parametrize("name", ["games", "cascade", "optimization", "points"])
def test_players_fit_a_phone(name, request, opened) -> None:
    tab = opened(request.getfixturevalue(name))
    before = tab.viewport_size
    tab.set_viewport_size({"width": 360, "height": 740})
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
    tab.set_viewport_size(before)
