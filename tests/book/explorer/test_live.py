"""The explorer of layers with a kernel behind it, which the test plays: progress, cancelling, uploads, traits."""

import base64
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from browser import complaints, new_tab
from layers_page import Layers, changed, drawn, fit, said, seen, slide
from playwright.sync_api import Browser, Page

from perceptual_lib.book.explorer.widget import HERE, module

MODEL = """
const listeners = [];
const traits = TRAITS;
window.sent = [];
window.emit = (event, ...values) => [...listeners].forEach(([name, listen]) => name === event && listen(...values));
const model = {
  get: (trait) => traits[trait],
  set(trait, value) {
    traits[trait] = value;
    emit(`change:${trait}`);
  },
  save_changes() {},
  on: (name, listen) => listeners.push([name, listen]),
  off: (name, listen) => listeners.splice(listeners.findIndex((each) => each[0] === name && each[1] === listen), 1),
  send: (message, _, buffers) => window.sent.push({ ...message, bytes: buffers?.[0].byteLength }),
};
window.model = model;
window.answer = (head, letters) => {
  const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
  emit("msg:custom", head, [new DataView(bytes.buffer)]);
};
"""


@pytest.fixture
def live(browser: Browser) -> Iterator[SimpleNamespace]:
    """A tab with the live widget, `answer(key)` as Python would, and `asked()`: the messages to Python."""
    widget = Layers(live=True)
    traits = widget.static_traits()
    code = module("layers").replace("export default", "window.explorer =")
    script = MODEL.replace("TRAITS", json.dumps(traits))
    with new_tab(browser) as tab:
        heard = complaints(tab, "about:")
        tab.set_content(f"<style>{(HERE / 'explorer.css').read_text()}</style><div id=here></div>")
        tab.add_script_tag(content=f"{script}\n{code}", type="module")
        tab.wait_for_function("window.explorer")
        tab.evaluate("() => { window.view = new AbortController(); }")
        tab.evaluate("() => explorer.render({ model, el: document.getElementById('here'), signal: view.signal })")

        def asked() -> list[dict]:
            tab.wait_for_function("() => sent.length")
            tab.wait_for_timeout(20)  # and no more than that
            return json.loads(tab.evaluate("JSON.stringify(window.sent.splice(0))"))

        def answer(key: str) -> None:
            head, data = widget.chunk(key)
            tab.evaluate("([head, data]) => answer(head, data)", [{"key": key} | head, base64.b64encode(data).decode()])

        yield SimpleNamespace(tab=tab, asked=asked, answer=answer)
        assert heard == []


@pytest.fixture
def working(live: SimpleNamespace) -> SimpleNamespace:
    """The same, with its first map."""
    assert live.asked() == [{"need": "picture/cat"}, {"need": "map/cat/perceptual/0-3"}]
    live.answer("picture/cat")
    live.answer("map/cat/perceptual/0-3")
    drawn(live.tab)
    return live


def test_progress_is_shown_and_can_be_cancelled(working: SimpleNamespace) -> None:
    tab = working.tab
    before = seen(tab)
    tab.get_by_label("Method").select_option("grad_cam")
    assert working.asked() == [{"need": "map/cat/grad_cam/"}]
    tab.evaluate("emit('msg:custom', { key: 'map/cat/grad_cam/', progress: 0.25, text: '25 %' }, [])")
    assert tab.locator("progress").evaluate("bar => bar.value") == 0.25
    tab.wait_for_function("() => document.querySelector('.status').textContent === 'Computing the map …'")
    tab.get_by_role("button", name="Cancel").click()
    assert working.asked() == [{"cancel": "map/cat/grad_cam/"}]
    tab.evaluate("emit('msg:custom', { key: 'map/cat/grad_cam/', error: 'cancelled' }, [])")
    assert changed(before, seen(tab)) == set()
    assert tab.get_by_label("Method").input_value() == "perceptual"
    assert tab.locator(".status").inner_text() == "Cancelled." and not tab.locator("progress").is_visible()


def take_a_step(tab: Page, key: str) -> None:
    """Of a search, as Python tells it."""
    step = {
        "key": key,
        "progress": 0.1,
        "step": 0,
        "steps": 9,
        "margin": 1.5,
        "probability": 0.6,
        "rival": 1,
        "rivals": 0.2,
    }
    tab.evaluate(
        """(step) => {
          const map = Uint16Array.from({ length: 48 * 64 }, (_, place) => place % 65536);
          const picture = new Uint8Array(4 * 48 * 64).fill(200);
          emit("msg:custom", step, [new DataView(map.buffer), new DataView(picture.buffer)]);
          emit("msg:custom", { ...step, step: 1, margin: -0.5 }, []);
        }""",
        step,
    )


def test_a_search_shows_its_maps_and_is_stopped_and_goes_on(working: SimpleNamespace) -> None:
    tab, key = working.tab, "map/cat/perceptual/0-5"
    before = seen(tab)
    slide(tab.get_by_label("last layer held"), 2)
    assert working.asked() == [{"need": key}]
    take_a_step(tab, key)
    assert changed(before, seen(tab)) == {"photograph", "map", "overlay", "cut"}
    words = "Why class 0? Because of this: with layers 0 to 5 held, 1 steps take its margin from 1.50 to -0.50."
    assert tab.locator(".result .chart circle").count() == 1 and words in tab.locator(".result").inner_text()
    tab.get_by_role("button", name="Stop").click()
    assert working.asked() == [{"stop": key}] and tab.locator(".status").inner_text() == "Stopped."
    tab.get_by_role("button", name="Go on").click()
    assert working.asked() == [{"need": key}]
    working.answer(key)
    drawn(tab)
    assert not tab.locator("progress").is_visible() and tab.locator(".result .chart").count() == 1


def test_a_comparison_ends_with_the_class_that_it_is_of(working: SimpleNamespace) -> None:
    tab = working.tab
    tab.get_by_role("button", name="Compare methods").click()
    assert tab.locator(".panel").count() > 4
    tab.evaluate("() => model.set('aim', 'towards')")
    tab.wait_for_function("() => document.querySelectorAll('.panel').length === 4")


def test_a_search_that_is_left_for_a_moment_is_drawn_at_its_end(working: SimpleNamespace) -> None:
    tab, key = working.tab, "map/cat/perceptual/0-5"
    last = tab.get_by_label("last layer held")
    slide(last, 2)
    assert working.asked() == [{"need": key}]
    take_a_step(tab, key)
    half_way = seen(tab)
    slide(last, 0)
    slide(last, 2)
    assert tab.locator(".explorer").get_attribute("aria-busy") == "true"
    working.answer(key)
    tab.wait_for_function("document.querySelector('.explorer').ariaBusy === 'false'")
    assert "map" in changed(half_way, seen(tab))


def test_what_is_asked_for_again_after_something_else_is_computed(working: SimpleNamespace) -> None:
    tab = working.tab
    last, first, second = tab.get_by_label("last layer held"), "map/cat/perceptual/0-5", "map/cat/perceptual/0-1"
    for value, key in (2, first), (0, second):
        slide(last, value)
        assert working.asked() == [{"need": key}]
    slide(last, 2)
    tab.wait_for_timeout(400)
    tab.evaluate("key => emit('msg:custom', { key, error: 'cancelled' }, [])", first)  # by the second, heard only now
    assert working.asked() == [{"need": first}]
    tab.evaluate("key => emit('msg:custom', { key, error: 'cancelled' }, [])", second)
    working.answer(first)
    drawn(tab)
    assert last.input_value() == "2" and tab.locator(".status").inner_text() == ""
    slide(last, 0)
    assert working.asked() == [{"need": second}]
    slide(last, 2)  # what is here needs nothing more
    assert working.asked() == [{"cancel": second}]


def test_only_the_newest_request_is_drawn(working: SimpleNamespace) -> None:
    tab = working.tab
    last = tab.get_by_label("last layer held")
    last.evaluate(  # within a moment
        """(input) => {
          for (const value of [0, 1, 2]) {
            input.value = value;
            input.dispatchEvent(new Event("input"));
          }
        }"""
    )
    assert working.asked() == [{"need": "map/cat/perceptual/0-5"}]  # and nothing for what was passed by
    slide(last, 0)
    assert working.asked() == [{"need": "map/cat/perceptual/0-1"}]
    before = seen_now(tab)
    working.answer("map/cat/perceptual/0-5")
    tab.wait_for_timeout(100)
    assert seen_now(tab) == before
    working.answer("map/cat/perceptual/0-1")
    drawn(tab)
    assert seen_now(tab) != before


def seen_now(tab: Page) -> list[str]:
    return tab.eval_on_selector_all(".panel canvas", "all => all.map(canvas => canvas.toDataURL())")


def test_python_moves_the_controls(working: SimpleNamespace) -> None:
    tab = working.tab
    tab.evaluate(
        "model.set('sigma', 3.5), model.set('strategy', 'mean'), model.set('alpha', 2.25), model.set('opacity', 0.4)"
    )
    values = [tab.get_by_label(label).input_value() for label in ("Blur σ", "Cut by", "Level α", "Opacity")]
    assert values == ["3.5", "mean", "2.25", "0.4"]
    drawn(tab)
    assert said(tab).split()[1] == fit("map/cat/perceptual/0-3", 3.5, "mean", 2.25)


def test_a_picture_is_sent_and_what_is_wrong_with_it_is_said(working: SimpleNamespace) -> None:
    tab = working.tab
    tab.locator("input[type=file]").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"12345"})
    assert working.asked() == [{"upload": "a.png", "bytes": 5}]
    tab.evaluate("emit('msg:custom', { error: 'a.png is not a picture.' }, [])")
    assert tab.locator(".status").inner_text() == "a.png is not a picture."
    new = {"name": "a.png", "title": "tabby", "boxes": [], "target": 0, "classes": []}
    about = tab.evaluate("model.get('about')")
    tab.evaluate("about => model.set('about', about)", about | {"photographs": [*about["photographs"], new]})
    tab.evaluate("model.set('photograph', 'a.png')")
    assert tab.get_by_label("Photograph", exact=True).locator("option").all_inner_texts()[2] == "tabby (a.png)"
    assert working.asked() == [{"need": "picture/a.png"}, {"need": "map/a.png/perceptual/0-3"}]


def test_a_closed_view_listens_no_longer(working: SimpleNamespace) -> None:
    paste = """() => {
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File(["12345"], "a.png"));
      const pasted = (at) => at.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
      const other = document.body.appendChild(document.createElement("textarea"));
      pasted(other); // into another cell: not ours
      pasted(document.body);
    }"""
    working.tab.evaluate(paste)
    assert working.asked() == [{"upload": "a.png", "bytes": 5}]
    working.tab.evaluate("() => view.abort()")
    working.tab.evaluate(paste)
    working.tab.wait_for_timeout(100)
    assert working.tab.evaluate("sent.length") == 0
