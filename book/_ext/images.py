"""Images are fetched when the reader comes near them, and their place is kept until then: nothing jumps."""

from pathlib import Path
from typing import Any

from docutils import nodes
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
    node["loading"] = "lazy"
    HTML5Translator.visit_image(self, node)
    if size:
        wide = "data-wide " * (float(size[0]) > WIDE)
        self.body[-1] = self.body[-1].replace("<img ", '<img {}width="{}" height="{}" '.format(wide, *size), 1)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write images of pages so."""
    app.add_node(nodes.image, override=True, html=(visit_image, HTML5Translator.depart_image))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
