"""Changes to what Sphinx's HTML writer writes.

Images are loaded when the reader comes near them, and have their size before, so that nothing jumps. On a dark page,
the style sheet can invert a figure around its photographs and maps, which keep their colours. References are list items
for a screen reader, too, because Docutils gives them a role that a list may not contain.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.images import get_image_size
from sphinx.writers.html5 import HTML5Translator

WIDE = 700  # pixels: words in a wider figure cannot be read once it is shrunk to the width of a phone


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Write an image as Sphinx does, with `loading`, `width` and `height`, and `data-wide` if it is wide.

    A notebook's figure has its size in pixels of the page. As attributes, width and height can be scaled down together
    by the style sheet; in a style, where Sphinx would write them, they would distort the figure on a phone.
    """
    if "height" in node:
        size = node.attributes.pop("width"), node.attributes.pop("height")
    else:
        size = get_image_size(Path(self.builder.srcdir, node["uri"]))
    around = _around_panels(Path(self.builder.srcdir, node["uri"]))
    node["loading"] = "lazy"
    HTML5Translator.visit_image(self, node)
    if size:
        wide = "data-wide " * (float(size[0]) > WIDE)
        self.body[-1] = self.body[-1].replace("<img ", '<img {}width="{}" height="{}" '.format(wide, *size), 1)
    if around:
        frame = f'<span style="clip-path: polygon(evenodd, {around})"></span>'
        self.body[-1] = f'<span class="around-panels">{self.body[-1].rstrip()}{frame}</span>\n'


def _around_panels(path: Path) -> str:
    """The corners of a polygon with a hole for each panel of a figure, from the comment of `figures.figure_data`."""
    if path.suffix not in (".jpg", ".jpeg"):
        return ""
    with Image.open(path) as image:
        panels = json.loads(image.info.get("comment", "[]"))
    if not panels:
        return ""
    corners = [
        f"{x:g}% {y:g}%"
        for left, top, right, bottom in [[0, 0, 100, 100], *panels]
        for x, y in ((left, top), (right, top), (right, bottom), (left, bottom), (left, top), (0, 0))
    ]
    return ", ".join(corners)


def visit_citation(self: HTML5Translator, node: nodes.citation) -> None:
    """Write a citation as Docutils does, but with the role "listitem", because ARIA has deprecated Docutils' role."""
    HTML5Translator.visit_citation(self, node)
    self.body[-1] = self.body[-1].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, Any]:
    """Register these visitors."""
    app.add_node(nodes.image, override=True, html=(visit_image, HTML5Translator.depart_image))
    app.add_node(nodes.citation, override=True, html=(visit_citation, HTML5Translator.depart_citation))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
