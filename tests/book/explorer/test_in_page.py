"""The reader's own photograph, explained by the network in the page itself: end to end, beside Python's."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from browser import complaints, new_tab, served
from PIL import Image
from playwright.sync_api import Browser, Page
from scipy.stats import spearmanr

from perceptual_lib import load_classifier
from perceptual_lib.book import pages
from perceptual_lib.book.explorer import Explorer
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.saliency import gaussian_blur, saliency_map
from perceptual_lib.methods import explain
from perceptual_lib.networks.pictures import open_picture
from perceptual_lib.photographs.sources import load_photographs

STEPS = 15
LISTEN = """
window.found = [];
window.Worker = class extends Worker {
  constructor(...about) {
    super(...about);
    this.addEventListener("message", ({ data }) => {
      const { map, margin } = data.found ?? {};
      const values = data.found instanceof Uint16Array ? data.found : map;
      if (values) window.found.push({ values: [...values], margin });
    });
  }
};
"""


@pytest.fixture(scope="module")
def classifier() -> object:
    return load_classifier()


@pytest.fixture(scope="module")
def site(classifier: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page, as staging makes one: its explorer has a finished map, and the kernel."""
    folder = tmp_path_factory.mktemp("site")
    explorer = Explorer(classifier, load_photographs(None)[:2], ["perceptual", "no_perceptual", "gradient", "grad_cam"])
    for method in ("perceptual", "no_perceptual", "gradient", "grad_cam"):
        key = f"map/{explorer.photograph}/{method}/{'0-25' if method == 'perceptual' else ''}"
        explorer.maps[key] = np.random.default_rng(0).random((224, 224), dtype=np.float32)
    explorer.with_kernel().about["kernel"]["settings"]["max_iter"] = STEPS
    output = nbformat.v4.new_output("display_data", {"text/html": explorer.html()})
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explorer", outputs=[output])])
    nbformat.write(page, folder / "computed.ipynb")
    (folder / "_static").mkdir()
    pages.stage_page(folder / "computed.ipynb", folder / "staged.ipynb", folder / "_static")
    [cell] = nbformat.read(folder / "staged.ipynb", 4).cells
    head = '<!doctype html><html lang=en data-content_root="./"><link rel=icon href="data:,"><title>Explorer</title>'
    (folder / "page.html").write_text(
        f"{head}<main>{cell.outputs[0].data['text/html']}</main></html>", encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """One that is not square, and larger than what the network takes."""
    return open_picture(load_photographs(None)[4]).crop((10, 0, 400, 300))


def as_file(picture: Image.Image) -> dict[str, object]:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return {"name": "private name.png", "mimeType": "image/png", "buffer": stream.getvalue()}


@pytest.fixture(params=["file", "http"])
def tab(request: pytest.FixtureRequest, site: Path, browser: Browser) -> Iterator[Page]:
    with served(site) as address, new_tab(browser) as tab:
        address = site.as_uri() if request.param == "file" else address
        heard = complaints(tab, address)
        tab.add_init_script(LISTEN)
        tab.goto(f"{address}/page.html")
        yield tab
        assert heard == []


def done(tab: Page) -> None:
    tab.wait_for_function("() => document.querySelector('.work progress').hidden && found.length", timeout=300_000)


@pytest.mark.slow
def test_a_photograph_is_explained_as_python_explains_it(tab: Page, picture: Image.Image, classifier: object) -> None:
    tab.locator(".explorer[data-redraw]").wait_for()
    assert tab.evaluate("performance.getEntriesByType('resource').length") < 12  # nothing for who does not ask
    tab.locator("input[type=file]").first.set_input_files(as_file(picture))
    done(tab)
    found = tab.evaluate("found")
    images = classifier.preprocess(picture)
    steps: list[torch.Tensor] = []
    truth = perceptual_ball(
        classifier, images, max_iter=STEPS, callback=lambda step, rows, delta: steps.append(delta.clone())
    )
    assert len(found) == len(steps) == STEPS + 1
    maps = torch.tensor([each["values"] for each in found], dtype=torch.float32).unflatten(1, (224, 224))
    for step in range(
        1, STEPS + 1
    ):  # blurred as they are shown: without blur, two runs of Python part at the tenth step
        sigma = 0 if step < 4 else 5
        pair = gaussian_blur(maps[step], sigma), saliency_map(steps[step], sigma)
        assert spearmanr(*(each.flatten() for each in pair)).statistic > 0.99, step
    assert found[-1]["margin"] == pytest.approx(truth.margin.item(), abs=0.1)
    assert found[0]["margin"] == pytest.approx(truth.margin_before.item(), abs=1e-3)
    names = tab.get_by_label("Class explained").locator("option")
    assert names.count() == 1000
    shares = classifier(images).softmax(1)[0].topk(5)
    for place, (share, index) in enumerate(zip(*shares, strict=True)):
        assert names.nth(place).inner_text().startswith(classifier.class_name(int(index)))
        assert f"{100 * share:.0f}"[0] in names.nth(place).inner_text()
    assert "private" not in tab.url and "private" not in tab.locator(".explorer").inner_text()

    for method in ("gradient", "grad_cam"):
        tab.evaluate("() => { found.length = 0; }")
        tab.get_by_label("Method").select_option(method)
        done(tab)
        expected = explain(classifier, images, truth.targets, method=method)
        assert spearmanr(tab.evaluate("found[0].values"), expected.flatten()).statistic > 0.99, method
