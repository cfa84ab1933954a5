"""The base of all explorers: an ES module that is used twice, and arrays that are sent on request.

Live, anywidget loads the module, and this class answers its messages. A static page contains the same module, with a
stand-in for the model and the arrays beside it.

    browser -> Python: {need: key}                       the key of an array of the explorer
    Python -> browser: {key, format, shape, low, high}   and a buffer; or {key, error}
"""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from perceptual_lib.core.errors import InputError, nearest
from perceptual_lib.core.saliency import gaussian_blur

try:
    import anywidget
    import traitlets
except ModuleNotFoundError as missing:
    raise InputError(f"the explorers need {missing.name}: pip install 'perceptual-ball[book]'.") from missing

HERE = Path(__file__).parent
IMPORT = re.compile(r'^import [^;]*? from "\./(\w+)\.js";\n', re.M)
PANELS, DENSITY = 3, 150  # of a still: how many panels at most, and pixels per inch
Chunk = tuple[dict[str, Any], bytes]
"""The head (format, shape, ...) of an array or a picture, and its bytes."""


@cache
def module(name: str) -> str:
    """The ES module of an explorer, joined with all modules that it imports, each once."""
    pieces: dict[str, str] = {}

    def add(name: str) -> None:
        source = (HERE / f"{name}.js").read_text(encoding="utf-8")
        for imported in IMPORT.findall(source):
            if imported not in pieces:
                add(imported)
        pieces[name] = re.sub(r"^export (?!default)", "", IMPORT.sub("", source), flags=re.M)

    add(name)
    return "\n".join(pieces.values())


def array_chunk(saliency: np.ndarray) -> Chunk:
    """A map (H, W), scaled to whole numbers from 0 to 65535 and deflated: two bytes for each pixel."""
    low, high = saliency.min(), saliency.max()
    scaled = np.rint((saliency - low) / (high - low if high > low else 1) * 65535).astype("<u2")
    head = {"format": "uint16", "shape": list(saliency.shape), "low": low.item(), "high": high.item()}
    return head, zlib.compress(scaled.tobytes())


def picture_chunk(pixels: np.ndarray) -> Chunk:
    """A picture (H, W, 3) in [0, 1], or a sheet of maps (H, W) in [0, 1], in grey, as WebP."""
    stream = BytesIO()
    Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(stream, "WEBP", quality=92)
    return {"format": "image/webp", "shape": list(pixels.shape)}, stream.getvalue()


def _panel(head: dict[str, Any], data: bytes, sigma: float) -> np.ndarray:
    """The image in a chunk: a picture (H, W, 3) in [0, 1]; a sheet (H, W); or a map (H, W), which is blurred here."""
    if head["format"] == "uint16":
        values = np.frombuffer(zlib.decompress(data), "<u2").reshape(head["shape"]).astype(np.float32)
        return gaussian_blur(torch.from_numpy(values), sigma).numpy()  # a still scales each map by its own range
    return np.asarray(Image.open(BytesIO(data)).convert("RGB" if len(head["shape"]) == 3 else "L")) / 255


class Widget(anywidget.AnyWidget):
    """An explorer. A subclass sets its ES module, `_esm = module(NAME)`, and its traits.

    Attributes:
        about: what can be chosen, and facts about it, as JSON.
        arrays: key -> a function that makes the chunk of an array or picture; a static page has them all.
    """

    _css = HERE / "explorer.css"
    about = traitlets.Dict().tag(sync=True)
    arrays: Mapping[str, Callable[[], Chunk]]

    def __init__(self, **traits: Any) -> None:
        if unknown := sorted(traits.keys() - self.class_trait_names()):  # traitlets would only warn
            close = nearest(unknown[0], self.class_trait_names(sync=True))
            raise InputError(f"{type(self).__name__} has no {unknown[0]!r} to choose{close}.")
        try:
            super().__init__(**traits)
        except traitlets.TraitError as error:
            raise InputError(str(error)) from error
        self.on_msg(self._answer)

    def check_choice(self, trait: str, there: Collection[str]) -> None:
        """Raise InputError if what a trait chooses is not there."""
        if (chosen := getattr(self, trait)) not in there:
            known = f"{nearest(chosen, there)}; there are {', '.join(there) or 'none'}"
            raise InputError(f"there is no {trait} {chosen!r} to choose{known}.")

    def chunk(self, key: str) -> Chunk:
        """The array or picture of a key. Raises InputError if there is none."""
        make = self.arrays.get(key)
        if make is None:
            word, _, which = key.partition("/")
            raise InputError(f"there is no {word} {which!r}.")
        return make()

    def _answer(self, _: Any, content: dict, buffers: list[bytes]) -> None:
        if "need" in content:
            self.reply(content["need"])

    def reply(self, key: str) -> None:
        """Send the array or picture of a key, or a sentence that says why there is none."""
        try:
            head, data = self.chunk(key)
        except InputError as error:
            self.send({"key": key, "error": str(error)})
        else:
            self.send({"key": key} | head, [data])

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict] | dict:
        """The live widget, the whole explorer as HTML for pages without a kernel, and a still for paper."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        still = base64.b64encode(self.still()).decode()
        return {**(data or {}), "text/html": self.html(), "image/jpeg": still}, metadata

    def panels(self) -> list[np.ndarray]:
        """The panels of a still: pictures (H, W, 3) in [0, 1] and maps (H, W).

        For each kind of array, those whose keys name most of the initial choices; `PANELS` at most in all.
        """
        chosen = {value for value in self.static_traits().values() if isinstance(value, str)}
        best: dict[str, tuple[int, list[str]]] = {}
        for key in self.arrays:
            word, *names = key.split("/")
            named = sum(set(name.split()) <= chosen or name in chosen for name in names)
            count, keys = best.get(word, (named, []))
            if named >= count:
                best[word] = named, [*(keys if named == count else []), key]
        best.pop("kernel", None)  # shows nothing
        shown = [key for _, keys in best.values() for key in keys][:PANELS]
        return [_panel(*self.chunk(key), getattr(self, "sigma", 0.0)) for key in shown]

    def still(self) -> bytes:
        """A JPEG of the panels side by side, which stands for the explorer on paper."""
        import matplotlib.pyplot as plt  # slow to import, and needed here alone

        from perceptual_lib.book.panels import image_grid

        panels, stream = self.panels(), BytesIO()
        figure = image_grid([panels], [""] * len(panels))
        figure.savefig(stream, format="jpeg", dpi=DENSITY)
        plt.close(figure)
        return stream.getvalue()

    def static_traits(self) -> dict[str, Any]:
        """The traits that a page without a kernel begins with: without those that every anywidget has."""
        others = {"_esm", "_css", "_anywidget_id", *anywidget.AnyWidget.class_trait_names()}
        return {name: getattr(self, name) for name in self.trait_names(sync=True) if name not in others}

    def html(self) -> str:
        """The explorer without a kernel: its module, its traits and all of its arrays."""
        names, scripts = {}, {}  # named by their hash: equal chunks are stored once
        for key in self.arrays:
            head, data = self.chunk(key)
            names[key] = "chunk-" + hashlib.sha256(repr(head).encode() + data).hexdigest()[:20]
            scripts[names[key]] = (
                f'<script type="text/plain" id="{names[key]}" data-head="{html.escape(json.dumps(head))}">'
                f"{base64.b64encode(data).decode()}</script>\n"
            )
        traits = json.dumps(self.static_traits()).replace("</", "<\\/")
        code = self._esm.replace("export default", "const explorer =")
        here = f"explorer-{hashlib.sha256((code + traits).encode()).hexdigest()[:12]}"
        return (
            f"<style>{self._css}</style>\n"
            f'<div class="explorer" id="{here}"><noscript>This needs JavaScript.</noscript></div>\n'
            + "".join(scripts.values())
            + f'<script type="module">\n{code}\n{(HERE / "static.js").read_text(encoding="utf-8")}\n'
            f'mountWhenSeen(document.getElementById("{here}"), explorer, {traits}, {json.dumps(names)});\n</script>'
        )
