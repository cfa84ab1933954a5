"""Pages of the EPUB, from which the PDF is made, too: XML without anything folded away or in need of a script."""

import posixpath
import re
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.builders.epub3 import Epub3Builder

EMBEDDED = {"math": ("mathml", "http://www.w3.org/1998/Math/MathML"), "svg": ("svg", "http://www.w3.org/2000/svg")}
"""Element of another language in a page -> EPUB's property for it, and its namespace."""
CAMEL_CASE = ("viewBox", "markerHeight", "markerWidth", "refX", "refY")
"""Attributes of SVG that the HTML parser turns into lower case."""
LEFT_OUT = "script, noscript, :not(svg) > style, fieldset, button"


class Builder(Epub3Builder):
    """Sphinx's EPUB builder, for a book whose first page is in a folder, and whose pages have equations as MathML."""

    media_types = Epub3Builder.media_types | {".woff2": "font/woff2", ".txt": "text/plain"}  # a font and its licence

    def get_toc(self) -> None:
        """Build the table of contents with addresses from the root of the book, without `..`."""
        super().get_toc()
        for node in self.refnodes:
            node["refuri"] = posixpath.normpath(node["refuri"])

    def build_content(self) -> None:
        """Write the package file with the property of each page that has equations or drawings, as EPUB demands."""
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
    """The body of a page as XML. Links in raw HTML to other pages get this suffix instead of .html."""
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select(LEFT_OUT):
        element.decompose()
    for folded in soup.select("details.hide"):  # a cell's code, or a whole cell
        folded.replace_with(*folded.select("div.cell_output"))
    for details in soup("details"):
        details["open"] = "open"
        details.attrs.pop("name", None)  # a browser opens only one of several with the same name
    for name, (_, namespace) in EMBEDDED.items():
        for element in soup(name):
            element["xmlns"] = namespace
    for element in soup.select("svg, svg *"):
        for name in CAMEL_CASE:
            if name.lower() in element.attrs:
                element[name] = element.attrs.pop(name.lower())
    for link in soup.select("a[data-state]"):  # it would set the state of an explorer, and there is none
        link.unwrap()
    for link in soup.find_all("a", href=re.compile(r"^[\w./-]+\.html(#|$)")):
        link["href"] = re.sub(r"\.html(#.*=.*)?", suffix, link["href"], count=1)
    return str(soup)


def tidy(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Tidy a page; Sphinx calls this for each."""
    context["body"] = tidied(context.get("body", ""), app.builder.out_suffix)
    context["script_files"] = []
    # myst-nb copies its style sheet only after the book has been packed, so it is not in the EPUB.
    context["css_files"] = [each for each in context["css_files"] if "mystnb" not in str(each.filename)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tidy pages after all other extensions."""
    app.add_builder(Builder, override=True)
    app.connect("html-page-context", tidy, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
