"""The book as one file: an EPUB made from the same stage as the site, and a PDF of its pages, printed by Chromium.

Explorers become stills. What the site folds is shown open, except code, which is left out. Nothing is computed.
"""

import posixpath
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urldefrag

import nbformat
import yaml
from bs4 import BeautifulSoup, Tag

from perceptual_lib.book import pages
from perceptual_lib.core.errors import InputError

NAME = "perceptual-ball"
BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"
ALT = "What an explorer shows at first: photographs, and maps of them."
STILL = "A still of what can be played with in the site of this book. Maps in one frame follow each other row by row."
FRONT = f'<figure><img src="../_static/front.jpg" alt="{ALT}"><figcaption><p>{STILL}</p></figcaption></figure>'
SPHINX = {
    "project": "The Perceptual Ball",
    "version": "1",  # EPUB wants one
    "epub_basename": NAME,
    "epub_css_files": ["one_file.css"],
    "epub_exclude_files": ["_static/front.html", "_static/front.md", "_static/paper.css"],
    "epub_identifier": NAME,
    "epub_uid": NAME,  # the same in the parts for EPUB 2 and 3
    "epub_description": "The reproducible edition of the paper on the perceptual ball.",
    "epub_show_urls": "no",
    "epub_tocdepth": 2,
    "epub_tocscope": "includehidden",
    "epub_use_index": False,
    "html_domain_indices": False,
}
"""Sphinx's settings in addition to those of the site."""


def chromium() -> str | None:
    """The path of a browser that prints PDFs, if the system has one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def bind(root: Path, out: Path, shown: Sequence[Path], waiting: Sequence[str], strict: bool) -> None:
    """Make `out/perceptual-ball.epub` and, if there is Chromium, `.pdf`; the arguments are those of `pages.render`.

    Raises InputError if Jupyter Book or Chromium fails.
    """
    stage, epub, pdf = out / "one-file", out / f"{NAME}.epub", out / f"{NAME}.pdf"
    for previous in (epub, pdf):
        previous.unlink(missing_ok=True)
    pages.fill(stage, root, shown, waiting)
    _still(stage)
    made = pages.run_sphinx(root, stage, out / "logs" / "EPUB.log", "epub", strict)
    (made / epub.name).replace(epub)
    if browser := chromium():
        _print(browser, made, pdf)
    for folder in (made.parents[1], stage):
        shutil.rmtree(folder, ignore_errors=True)  # a browser that ends may still be writing


def _still(stage: Path) -> None:
    """Replace explorers by their stills, and the settings of the site by those of a book."""
    path, static = stage / pages.SETTINGS[0], stage / "book" / "_static"
    shutil.rmtree(static / "explorer", ignore_errors=True)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["sphinx"]["local_extensions"]["one_file"] = "book/_ext"
    settings["sphinx"]["config"]["extensions"].append("one_file")
    settings["sphinx"]["config"] |= SPHINX
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    for page in stage.glob("notebooks/*.ipynb"):
        notebook = nbformat.read(page, 4)
        top = [cell.outputs for cell in notebook.cells if cell.id == "main-figure"]
        notebook.cells = [cell for cell in notebook.cells if cell.id == "main-figure" or cell.get("outputs") not in top]
        for cell in notebook.cells:
            for data in [output.get("data", {}) for output in cell.get("outputs", [])]:
                if 'class="explorer"' not in data.get("text/html", ""):
                    continue
                picture = data["image/jpeg"]
                data.clear()
                data["image/jpeg"] = picture
                cell.metadata["mystnb"] = {"figure": {"caption": STILL}, "image": {"alt": ALT}}
                if "front-page" in pages.tags(cell):
                    (static / "front.jpg").write_bytes(b64decode(picture))
                    (static / "front.html").write_text(FRONT)
        nbformat.write(notebook, page)


def _print(browser: str, epub: Path, pdf: Path) -> None:
    """Join the unpacked pages of an EPUB and print them."""
    joined = epub / "joined.html"
    joined.write_text(_joined(epub), encoding="utf-8")
    # Some containers allow no sandbox, and our own pages, which have no scripts, need none. The browser gets a profile
    # of its own, because one that is already open locks the user's.
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={epub.parent / 'profile'}"]
    command += ["--no-pdf-header-footer", "--generate-pdf-document-outline", f"--print-to-pdf={pdf}"]
    done = subprocess.run([*command, joined.as_uri()], capture_output=True, text=True, check=False)
    if not pdf.exists():
        raise InputError(f"{browser} could not print {pdf.name}: {done.stderr.strip() or done.returncode}")


def _joined(epub: Path) -> str:
    """All pages as one HTML page: the first page, the table of contents, the others in its order. Links stay within."""
    contents = BeautifulSoup((epub / "nav.xhtml").read_text(encoding="utf-8"), "html.parser").nav
    names = dict.fromkeys(urldefrag(link["href"]).url for link in contents("a"))
    sections = []
    for name in names:
        page = BeautifulSoup((epub / name).read_text(encoding="utf-8"), "html.parser")
        sections.append(f'<section id="{name}">{_moved(page.find(class_="body"), name)}</section>')
    sections.insert(1, f"<section>{_moved(contents, '')}</section>")
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>The Perceptual Ball</title>
<link rel="stylesheet" href="_static/pygments.css"><link rel="stylesheet" href="_static/one_file.css">
<link rel="stylesheet" href="_static/paper.css">
</head><body>{"".join(sections)}</body></html>"""


def _moved(body: Tag, name: str) -> str:
    """The body of a page as a part of the joined one: ids get the page's name, links and images lead from there."""
    for element in body.select("[id]:not(svg *)"):  # drawings refer to their ids by `url(#id)`
        element["id"] = f"{name}:{element['id']}"
    for attribute in ("href", "src"):
        for element in body.select(f"[{attribute}]"):
            url, fragment = urldefrag(element[attribute])
            if ":" in url:  # another host's
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), url)) if url else name
            target = f"#{path}:{fragment}" if fragment else f"#{path}"
            element[attribute] = path if attribute == "src" else target
    return str(body)
