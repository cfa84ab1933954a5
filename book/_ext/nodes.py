"""What Sphinx's writer of HTML writes otherwise.

Images are fetched when the reader comes near them, and their place is kept until then: nothing jumps. On a dark page
what stands around the photographs and maps of a figure can be turned over, and they stay as they are. References are a
list of items, also for a screen reader: no list may hold what Docutils calls their entries.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.images import get_image_size
from sphinx.writers.html5 import HTML5Translator

WIDE = 700  # pixels, from which on words in a figure cannot be read when it is as wide as a phone


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Sphinx's own, with `loading`, `width` and `height`, and whether it is wide.

    A figure of a notebook tells its size in pixels of the page. As attributes the style sheet can scale them down
    together; as a style, where Sphinx would write them, they would distort the figure on a phone.
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
    """The corners of a polygon with a hole for each panel of a figure, as its comment says (`figures.figure_data`)."""
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
    """Docutils' own, with a role that ARIA has not given up."""
    HTML5Translator.visit_citation(self, node)
    self.body[-1] = self.body[-1].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, Any]:
    """Write these nodes so."""
    app.add_node(nodes.image, override=True, html=(visit_image, HTML5Translator.depart_image))
    app.add_node(nodes.citation, override=True, html=(visit_citation, HTML5Translator.depart_citation))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
