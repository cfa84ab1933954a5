"""What a reader does with a photograph of their own, which a small network explains in the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import complaints, new_tab, served
from layers_page import seen, slide
from own_page import LISTEN, a_picture, done, give, site_of, small
from PIL import Image
from playwright.sync_api import Browser, Page, Request
from scipy.stats import spearmanr

from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.saliency import saliency_map


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return a_picture()


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site_of(small(), tmp_path_factory.mktemp("small"), 40)


@pytest.fixture
def tab(small_site: Path, browser: Browser) -> Iterator[Page]:
    """A page that has explained a photograph."""
    with new_tab(browser) as tab:
        heard = complaints(tab, "file:")
        tab.add_init_script(LISTEN)
        tab.goto(f"{small_site.as_uri()}/page.html")
        tab.locator(".explorer[data-redraw]").wait_for()
        yield tab
        assert heard == []


@pytest.fixture
def explained(tab: Page, picture: Image.Image) -> Page:
    give(tab, picture)
    done(tab)
    return tab


def test_a_network_of_other_shapes_is_explained_too(explained: Page, picture: Image.Image) -> None:
    classifier, steps = small(), []
    images = classifier.preprocess(picture)
    perceptual_ball(classifier, images, max_iter=40, layers=0, callback=lambda *it: steps.append(it[2].clone()))
    found = explained.evaluate("found")
    for step in range(1, min(8, len(steps))):
        assert spearmanr(found[step]["values"], saliency_map(steps[step]).flatten()).statistic > 0.99, step
    assert "Why kind" in explained.locator(".result").inner_text()
    assert explained.locator(".result .chart").count() == 1


def test_another_class_and_other_layers_are_searched_for(explained: Page) -> None:
    before, words = seen(explained), explained.locator(".result p").all_inner_texts()
    explained.evaluate("() => { found.length = 0; }")
    explained.get_by_label("Class explained").select_option(index=1)
    done(explained)
    assert explained.locator(".result p").all_inner_texts() != words
    explained.evaluate("() => { found.length = 0; }")
    slide(explained.get_by_label("last layer held"), 1)
    done(explained)
    assert seen(explained)["map"] != before["map"]
    explained.wait_for_function("location.hash.includes('layers.layers=0-1')")
    explained.get_by_label("Photograph", exact=True).select_option(index=0)
    explained.locator("label[hidden], .control[hidden]").first.wait_for(state="attached")
    assert not explained.get_by_label("Class explained").is_visible()


def test_the_change_that_reaches_a_class_is_searched_for(explained: Page, picture: Image.Image) -> None:
    explained.evaluate("() => { found.length = 0; }")
    explained.get_by_label("The change").select_option(label="reaches this class")
    done(explained)
    classifier, steps = small(), []
    images = classifier.preprocess(picture)
    first, second = classifier(images).argsort(descending=True)[0, :2].tolist()
    assert explained.get_by_label("Class explained").input_value() == f"{second}"  # it is the first already
    truth = perceptual_ball(
        classifier, images, towards=second, max_iter=40, callback=lambda *it: steps.append(it[2].clone())
    )
    found = explained.evaluate("found")
    for step in range(1, min(8, len(steps))):
        assert spearmanr(found[step]["values"], saliency_map(steps[step]).flatten()).statistic > 0.99, step
    assert found[0]["margin"] == pytest.approx(-truth.margin_before.item(), abs=1e-3) and found[0]["margin"] < 0
    assert found[-1]["margin"] > 0 and f"It is kind {second} now" in explained.locator(".result").inner_text()
    explained.wait_for_function("location.hash.includes('layers.aim=towards')")
    assert explained.get_by_label("The change").is_visible()
    explained.get_by_label("Method").select_option("gradient")
    assert not explained.get_by_label("The change").is_visible()


def stop_at_once(tab: Page, picture: Image.Image) -> None:
    tab.evaluate(
        """() => {
          const button = document.querySelector(".work button");
          const press = (_, observer) => {
            if (button.textContent !== "Stop") return;
            observer.disconnect();
            button.click();
          };
          new MutationObserver(press).observe(button, { childList: true });
        }"""
    )
    give(tab, picture)
    tab.get_by_role("button", name="Go on").wait_for()
    tab.wait_for_timeout(300)


def test_a_stopped_search_may_be_left(tab: Page, picture: Image.Image) -> None:
    stop_at_once(tab, picture)
    photographs = tab.get_by_label("Photograph", exact=True)
    photographs.select_option(index=0)
    tab.locator(".verdict .meter").wait_for()
    photographs.select_option("yours")
    tab.locator(".result .chart").wait_for()
    done(tab)
    assert "Why kind" in tab.locator(".result").inner_text()


def test_a_search_is_stopped_and_goes_on(tab: Page, picture: Image.Image) -> None:
    stop_at_once(tab, picture)
    count = tab.evaluate("found.length")
    tab.wait_for_timeout(300)
    assert tab.evaluate("found.length") == count < 41 and tab.locator(".status").inner_text() == "Stopped."
    tab.get_by_role("button", name="Go on").click()
    done(tab)
    assert count < tab.evaluate("found.length") <= 41  # it did not begin anew


def test_a_tab_in_the_background_goes_on_and_says_that_it_may_be_slow(tab: Page, picture: Image.Image) -> None:
    stop_at_once(tab, picture)
    tab.evaluate("() => Object.defineProperty(document, 'hidden', { get: () => true })")
    tab.evaluate(
        """() => {
          window.said = [];
          const said = document.querySelector(".status");
          new MutationObserver(() => window.said.push(said.textContent)).observe(said, { childList: true });
        }"""
    )
    tab.get_by_role("button", name="Go on").click()
    done(tab)
    assert any("in the background" in words for words in tab.evaluate("said"))
    assert "background" not in tab.locator(".status").first.inner_text()


def test_a_box_gives_an_iou_written_or_drawn(explained: Page) -> None:
    assert "No box is known" in explained.locator(".verdict").inner_text()
    box = explained.get_by_label("Your box")
    box.fill("0, 0, 63, 47")
    box.press("Tab")
    explained.wait_for_function("document.querySelector('.verdict').textContent.startsWith('IoU')")
    photograph = explained.locator(".panel canvas").first.bounding_box()
    explained.mouse.move(photograph["x"] + photograph["width"] / 4, photograph["y"] + photograph["height"] / 4)
    explained.mouse.down()
    explained.mouse.move(photograph["x"] + photograph["width"] / 2, photograph["y"] + photograph["height"] / 2)
    explained.mouse.up()
    explained.wait_for_function("!document.querySelector('.box input').value.startsWith('0')")
    drawn = [float(side) for side in box.input_value().split(",")]
    assert drawn == pytest.approx([16, 12, 32, 24], abs=1)
    explained.mouse.move(photograph["x"] + photograph["width"] / 4, photograph["y"] + photograph["height"] / 4)
    explained.mouse.down()
    explained.mouse.move(photograph["x"] + 3 * photograph["width"], photograph["y"] - photograph["height"])
    explained.mouse.up()
    explained.wait_for_function("document.querySelector('.box input').value.includes('63')")
    assert [float(side) for side in box.input_value().split(",")] == pytest.approx([16, 0, 63, 12], abs=1)
    for written, wrong in {"63 47 0 -5": False, "to the left": True}.items():
        box.fill(written)
        box.press("Tab")
        assert box.evaluate("input => input.validationMessage.startsWith('Four numbers')") == wrong
        assert fitted(explained) == "0, 0, 64, 48"  # to the end of the last pixel


def fitted(tab: Page) -> str:
    """The box that is known, as it is drawn over the photograph."""
    return tab.evaluate(
        """() => {
          const { x, y, width, height } = document.querySelector(".boxes rect").attributes;
          return [x, y, width, height].map((each) => each.value).join(", ");
        }"""
    )


def test_methods_are_compared_and_saved(explained: Page, tmp_path: Path) -> None:
    explained.get_by_role("button", name="Compare methods").click()
    explained.locator("figcaption", has_text="Grad-CAM").wait_for()
    words = "() => [...document.querySelectorAll('figcaption')].every((each) => !each.textContent.endsWith('…'))"
    explained.wait_for_function(words)
    captions = explained.locator("figcaption").all_inner_texts()[4:]
    assert captions == ["NoPer", "perceptual, layers 0-0", "gradient", "Grad-CAM"]
    with explained.expect_download() as download:
        explained.get_by_role("button", name="Save as PNG").click()
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as saved:
        assert saved.size == (4 * 74 + 10, 48 + 60) and len(set(saved.convert("RGB").getdata())) > 500


def test_methods_are_compared_while_a_search_is_stopped(tab: Page, picture: Image.Image) -> None:
    stop_at_once(tab, picture)
    tab.get_by_role("button", name="Compare methods").click()
    words = "() => [...document.querySelectorAll('figcaption')].every((each) => !each.textContent.endsWith('…'))"
    tab.wait_for_function(f"() => document.querySelectorAll('figcaption').length > 4 && ({words})()")
    captions = tab.locator("figcaption").all_inner_texts()[4:]
    assert captions == ["NoPer", "perceptual, layers 0-0", "gradient", "Grad-CAM"]
    assert tab.locator(".explorer").get_attribute("aria-busy") == "false"


def test_a_search_goes_on_beside_what_is_no_picture(tab: Page, picture: Image.Image) -> None:
    press = """() => {
      const input = document.querySelector("input[type=file]"), files = new DataTransfer();
      files.items.add(new File(["no picture"], "words.png", { type: "image/png" }));
      const give = (_, observer) => {
        if (document.querySelector(".work button").textContent !== "Stop") return;
        observer.disconnect();
        input.files = files.files;
        input.dispatchEvent(new Event("change"));
      };
      new MutationObserver(give).observe(document.querySelector(".work button"), { childList: true });
    }"""
    tab.evaluate(press)
    give(tab, picture)
    done(tab)
    assert tab.evaluate("found.length") == 41  # all of its steps


def test_what_is_no_picture_is_one_sentence_and_the_page_goes_on(explained: Page) -> None:
    before = seen(explained)
    explained.locator("input[type=file]").first.set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    explained.wait_for_function("document.querySelector('.status').textContent.startsWith('a.png is not a picture')")
    slide(explained.get_by_label("Blur σ"), 9)
    assert seen(explained)["map"] != before["map"]


@pytest.mark.parametrize(
    ("breaks", "sentence"),
    [
        ("delete globalThis.WebAssembly;", "This browser has no WebAssembly"),
        ("globalThis.Worker = class { constructor() { throw new Error('no memory'); } };", "no memory"),
    ],
)
def test_a_browser_that_cannot_says_so(
    browser: Browser, small_site: Path, picture: Image.Image, breaks: str, sentence: str
) -> None:
    with new_tab(browser) as tab:
        tab.add_init_script(breaks)
        tab.goto(f"{small_site.as_uri()}/page.html")
        tab.locator(".explorer[data-redraw]").wait_for()
        give(tab, picture)
        tab.wait_for_function("words => document.querySelector('.status').textContent.includes(words)", arg=sentence)
        before = seen(tab)
        slide(tab.get_by_label("Blur σ"), 9)
        assert seen(tab)["map"] != before["map"]


def test_the_next_visit_finds_the_network_in_the_cache(
    small_site: Path, browser: Browser, picture: Image.Image
) -> None:
    with served(small_site) as address, new_tab(browser) as tab:
        for visit in range(2):
            loaded: list[Request] = []
            tab.on("requestfinished", lambda request, loaded=loaded: loaded.append(request))
            tab.add_init_script(LISTEN)
            tab.goto(f"{address}/page.html?{visit}")
            tab.locator(".explorer[data-redraw]").wait_for()
            before = len(loaded)
            give(tab, picture)
            done(tab)
            fetched = [each for each in loaded[before:] if each.url.startswith(address)]
            received = sum(each.sizes()["responseBodySize"] for each in fetched)
            # What is there is not sent again; whether it is still the same may be asked.
            assert received > 10_000 if visit == 0 else received < 1000


def test_everybody_can_use_it(explained: Page) -> None:
    explained.evaluate("document.body.style.background = 'var(--book-paper)'")
    for theme in ("dark", "light"):
        explained.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        violations = Axe().run(explained).response["violations"]
        serious = [each for each in violations if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []
    explained.set_viewport_size({"width": 360, "height": 740})
    assert explained.evaluate("document.scrollingElement.scrollWidth") == 360
