"""Pages of the EPUB, of which the PDF is made, too: XML, without what needs a script, and nothing folded away."""

import posixpath
import re
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.builders.epub3 import Epub3Builder

EMBEDDED = {"math": ("mathml", "http://www.w3.org/1998/Math/MathML"), "svg": ("svg", "http://www.w3.org/2000/svg")}
"""By its element, what EPUB calls another language in a page, and its namespace."""
CAMEL_CASE = ("viewBox", "markerHeight", "markerWidth", "refX", "refY")
"""Attributes of SVG whose letters the HTML parser makes small."""
LEFT_OUT = "script, noscript, :not(svg) > style, fieldset, button"


class Builder(Epub3Builder):
    """Sphinx's own, where the first page is in a folder and equations are in the pages."""

    media_types = Epub3Builder.media_types | {".woff2": "font/woff2", ".txt": "text/plain"}  # a font and its licence

    def get_toc(self) -> None:
        """Addresses from the root of the book, without `..`."""
        super().get_toc()
        for node in self.refnodes:
            node["refuri"] = posixpath.normpath(node["refuri"])

    def build_content(self) -> None:
        """And which pages have equations or drawings, as EPUB wants to be told."""
        super().build_content()
        package = Path(self.outdir, "content.opf")
        text = package.read_text(encoding="utf-8")
        for name in self.files:
            if name.endswith(self.out_suffix):
                page = Path(self.outdir, name).read_text(encoding="utf-8")
                if properties := " ".join(said for kind, (said, _) in EMBEDDED.items() if f"<{kind} " in page):
                    text = text.replace(f'href="{name}" ', f'href="{name}" properties="{properties}" ', 1)
        package.write_text(text, encoding="utf-8")


def tidied(body: str, suffix: str) -> str:
    """The body of a page as XML; links of raw HTML to other pages lead to those with this suffix."""
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select(LEFT_OUT):
        element.decompose()
    for folded in soup.select("details.hide"):  # a cell's code, or a whole cell
        folded.replace_with(*folded.select("div.cell_output"))
    for details in soup("details"):
        details["open"] = "open"
        details.attrs.pop("name", None)  # of several with one name a browser opens one
    for name, (_, namespace) in EMBEDDED.items():
        for element in soup(name):
            element["xmlns"] = namespace
    for element in soup.select("svg, svg *"):
        for name in CAMEL_CASE:
            if name.lower() in element.attrs:
                element[name] = element.attrs.pop(name.lower())
    for link in soup.select("a[data-state]"):  # what it sets is an explorer
        link.unwrap()
    for link in soup.find_all("a", href=re.compile(r"^[\w./-]+\.html(#|$)")):
        link["href"] = re.sub(r"\.html(#.*=.*)?", suffix, link["href"], count=1)
    return str(soup)


def tidy(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """What Sphinx calls for each page."""
    context["body"] = tidied(context.get("body", ""), app.builder.out_suffix)
    context["script_files"] = []
    # That of myst-nb is not in the EPUB: it is copied when the book has been packed.
    context["css_files"] = [each for each in context["css_files"] if "mystnb" not in str(each.filename)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tidy pages after all other extensions."""
    app.add_builder(Builder, override=True)
    app.connect("html-page-context", tidy, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
