"""A page with the explorer of layers on maps of chance, and what is seen on it."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import traitlets
from playwright.sync_api import Locator, Page
from scipy import ndimage

from perceptual_lib.book.explorer.widget import HERE, Chunk, Widget, array_chunk, module, picture_chunk
from perceptual_lib.evaluation.localization.protocol import THRESHOLDS, localize
from perceptual_lib.evaluation.places import scale_and_blur

HEIGHT, WIDTH = 48, 64
UNITS = [[0, 1], [2, 3], [4, 5]]
RANGES = [f"{first}-{last}" for first, _ in UNITS for _, last in UNITS if first <= last]
BOX = [12.0, 8.0, 45.5, 36.25]
BOOK = HERE.parents[2] / "book" / "_static" / "book.css"


def as_map(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    spots = ndimage.gaussian_filter(random.exponential(size=(HEIGHT, WIDTH)) ** 2, 2)
    return np.rint(65535 * (spots - spots.min()) / np.ptp(spots)) / 65535  # as it will be read


MAPS = {f"map/cat/perceptual/{layers}": as_map(seed) for seed, layers in enumerate(RANGES)} | {
    "map/cat/grad_cam/": as_map(20),
    "map/dog/perceptual/0-3": as_map(21),
    "map/dog/grad_cam/": as_map(22),
}


def noise(seed: int) -> Chunk:
    """A picture of chance."""
    return picture_chunk(np.random.default_rng(seed).random((HEIGHT, WIDTH, 3)))


class Layers(Widget):
    """The explorer with maps of chance."""

    _esm = module("layers")
    address = traitlets.Unicode("layers").tag(sync=True)
    photograph = traitlets.Unicode("cat").tag(sync=True)
    target = traitlets.Unicode().tag(sync=True)
    aim = traitlets.Unicode("away").tag(sync=True)
    method = traitlets.Unicode("perceptual").tag(sync=True)
    layers = traitlets.Unicode("0-3").tag(sync=True)
    sigma = traitlets.Float(2.0).tag(sync=True)
    strategy = traitlets.Unicode("value").tag(sync=True)
    alpha = traitlets.Float(0.3).tag(sync=True)
    opacity = traitlets.Float(0.7).tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)
    about = traitlets.Dict(
        {
            "photographs": [
                {"name": "cat", "title": "tabby", "boxes": [BOX], "target": 0, "classes": []},
                {"name": "dog", "title": "<b>mastiff</b>", "boxes": [], "target": 1, "classes": []},
            ],
            "methods": [
                {
                    "name": "perceptual",
                    "title": "perceptual",
                    "note": "60 passes",
                    "layered": True,
                    "ours": True,
                },
                {"name": "grad_cam", "title": "Grad-CAM", "note": "one pass", "layered": False, "ours": False},
                {"name": "lost", "title": "without maps", "note": "one pass", "layered": False, "ours": False},
            ],
            "size": [HEIGHT, WIDTH],
            "activations": 6,
            "errors": {
                "perceptual": {
                    "n": 150,
                    "value": [0.43, 0.35, 0.51],
                    "percent": [0.52, 0.44, 0.6],
                    "mean": [0.41, 0.33, 0.49],
                }
            },
            "ranges": [
                {
                    "layers": each,
                    "role": "range",
                    "first": int(each[0]),
                    "last": int(each[2]),
                    "n": 4,
                    "error": 0.4 + index / 20 if index else None,
                    "best": 0.1 + index / 20 if index else None,
                }
                for index, each in enumerate(RANGES)
            ],
            "alphas": {"value": [0.05, 1.0, 0.05], "percent": [0.05, 1.0, 0.05], "mean": [0.05, 10.5, 0.05]},
            "notice": "",
            **{"classes": [], "becomes": {}, "tried": {}},
        }
    ).tag(sync=True)

    arrays: ClassVar = {
        **{f"picture/{name}": partial(noise, seed) for seed, name in enumerate(("cat", "dog"))},
        **{key: partial(array_chunk, saliency) for key, saliency in MAPS.items()},
    }


def fit(key: str, sigma: float, strategy: str, alpha: float) -> str:
    """The library's IoU, as it is written."""
    blurred = scale_and_blur(torch.from_numpy(MAPS[key].astype(np.float32))[None], sigma)
    return f"{localize(blurred, [[BOX]])[0, THRESHOLDS.index((strategy, alpha))]:.3f}"


def written(widget: Widget, folder: Path) -> str:
    """The address of a page with an explorer."""
    head = f"<!doctype html><html lang=en data-theme=light><title>Explorer</title><style>{BOOK.read_text()}</style>"
    (folder / "page.html").write_text(f"{head}<body><main>{widget.html()}</main></body></html>", encoding="utf-8")
    return (folder / "page.html").as_uri()


def drawn(tab: Page) -> None:
    """Wait until nothing is loading, and what was asked for is drawn."""
    tab.wait_for_selector(".explorer[data-redraw]:not([data-waiting])", state="attached")
    frame = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    tab.evaluate(frame)


def said(tab: Page) -> str:
    drawn(tab)
    return tab.locator(".verdict p").inner_text()


def seen(tab: Page) -> dict[str, str]:
    """The panels' pixels."""
    drawn(tab)
    names = ("photograph", "map", "overlay", "cut")
    urls = tab.eval_on_selector_all(".panel canvas", "all => all.map(canvas => canvas.toDataURL())")
    return dict(zip(names, urls, strict=True))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def slide(control: Locator, value: float) -> None:
    control.evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value)
