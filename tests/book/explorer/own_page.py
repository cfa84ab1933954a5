"""A page that explains its reader's photograph, and what the tests of it do there."""

from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import torch
from layers_page import BOOK
from PIL import Image
from playwright.sync_api import Page
from torch import nn

from perceptual_lib import load_classifier
from perceptual_lib.book import pages
from perceptual_lib.book.explorer import Explorer
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.pictures import open_picture
from perceptual_lib.photographs.sources import load_photographs

METHODS = ["no_perceptual", "perceptual", "gradient", "grad_cam"]
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


def small() -> Classifier:
    """A network that is explained in a moment."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU6(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU6()
    network = nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12))
    network[-1].weight.data *= 20
    names = [f"kind {index}" for index in range(12)]
    made = Classifier(network, class_names=names, input_size=(48, 64), interpolation=Image.Resampling.BICUBIC)
    return load_classifier(made)


def site_of(classifier: Classifier, folder: Path, steps: int) -> Path:
    """A folder with a page, as staging makes one: its explorer has finished maps, and the kernel."""
    explorer = Explorer(classifier, load_photographs(None)[:2], METHODS)
    for method in METHODS:
        key = f"map/{explorer.photograph}/{method}/{explorer.layers if method == 'perceptual' else ''}"
        explorer.maps[key] = np.random.default_rng(0).random(classifier.input_size, dtype=np.float32)
    explorer.with_kernel(max_iter=steps)
    output = nbformat.v4.new_output("display_data", {"text/html": explorer.html()})
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explorer", outputs=[output])])
    nbformat.write(page, folder / "computed.ipynb")
    (folder / "_static").mkdir()
    pages.stage_page(folder / "computed.ipynb", folder / "staged.ipynb", folder / "_static")
    [cell] = nbformat.read(folder / "staged.ipynb", 4).cells
    head = '<!doctype html><html lang=en data-theme=light data-content_root="./"><link rel=icon href="data:,">'
    head += f"<title>Explorer</title><style>{BOOK.read_text()}</style>"
    html = f"{head}<main>{cell.outputs[0].data['text/html']}</main></html>"
    (folder / "page.html").write_text(html, encoding="utf-8")
    return folder


def a_picture() -> Image.Image:
    """One that is not square, and larger than what the network takes."""
    return open_picture(load_photographs(None)[4]).crop((10, 0, 400, 300))


def give(tab: Page, picture: Image.Image) -> None:
    stream = BytesIO()
    picture.save(stream, "PNG")
    file = {"name": "private name.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    tab.locator("input[type=file]").first.set_input_files(file)


def done(tab: Page) -> None:
    tab.wait_for_function(
        "() => document.querySelector('.explorer').ariaBusy === 'false' && found.length", timeout=300_000
    )
