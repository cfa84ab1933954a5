"""The book as one file, of a small clone: what a reader without a network, without scripts and on paper gets."""

import base64
import io
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from PIL import Image

pytest.importorskip("doit")  # the unit tests can do without it

from clones import small_clone, without_games  # noqa: E402

from perceptual_lib.book import one_file, pages  # noqa: E402
from perceptual_lib.book.pipeline import build  # noqa: E402

ORANGE = (213, 94, 0)
EXPLORER = '<div class="explorer"></div><script type="module">alert("played")</script>'
TABLE = "<style scoped>td { color: red }</style><table><tr><td>a&nbsp;b<br>& c</td></tr></table>"
PYTHON = {"language_info": {"name": "python"}}
SOLUTION = "<details>\n<summary>Solution</summary>\n\nOpen this.\n\n</details>\n\n[](2-second.ipynb)"
PLAYED = '<a data-state="layers.sigma=5" href="#">Five.</a> <a href="2-second.html#layers.sigma=5">Here.</a>'


def cell(tag: str, source: str, **data: str) -> nbformat.NotebookNode:
    """A computed cell with a tag."""
    outputs = [nbformat.v4.new_output("display_data", {name.replace("_", "/"): each for name, each in data.items()})]
    return nbformat.v4.new_code_cell(source, outputs=outputs if data else [], metadata={"tags": [tag] if tag else []})


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an explorer on its front page, folded code and cells, raw HTML, and the same heading on two pages."""
    clone = small_clone(tmp_path_factory.mktemp("clone"))
    stream = io.BytesIO()
    Image.new("RGB", (64, 32), ORANGE).save(stream, "JPEG")
    still = base64.b64encode(stream.getvalue()).decode()
    cells = [
        nbformat.v4.new_markdown_cell("# First\n\n## Exercises"),
        cell("hide-input", "folded_code = 1", text_html=TABLE),
        cell("hide-cell", "folded_cell = 2", text_plain="what a fold hides"),
        cell("front-page", "open_code = 3", text_html=EXPLORER, image_jpeg=still, text_plain="Explorer()"),
        nbformat.v4.new_markdown_cell(f"{SOLUTION} {PLAYED}"),
    ]
    second = [nbformat.v4.new_markdown_cell("# Second\n\n## Exercises")]
    for name, each in {"1-first": cells, "2-second": second}.items():
        nbformat.write(nbformat.v4.new_notebook(cells=each, metadata=PYTHON), clone / "notebooks" / f"{name}.ipynb")
    return clone


@pytest.fixture(scope="module")
def bound(clone: Path) -> Path:
    """Its files' folder."""
    (clone / "_build").mkdir()
    one_file.bind(clone, clone / "_build", sorted((clone / "notebooks").glob("*.ipynb")), [], strict=True)
    return clone / "_build"


@pytest.fixture(scope="module")
def epub(bound: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(bound / "perceptual-ball.epub") as opened:
        yield opened


def read(epub: zipfile.ZipFile, name: str) -> str:
    return epub.read(name).decode()


@pytest.mark.slow
def test_the_package_lists_what_is_in_it_and_nothing_else(epub: zipfile.ZipFile) -> None:
    package = ElementTree.fromstring(epub.read("content.opf"))
    items = {item.get("id"): item for item in package.findall(".//{*}item")}
    names = {item.get("href") for item in items.values()}
    assert names == set(epub.namelist()) - {"mimetype", "META-INF/container.xml", "content.opf"}
    assert epub.infolist()[0].filename == "mimetype" and epub.infolist()[0].compress_type == zipfile.ZIP_STORED
    order = [items[one.get("idref")].get("href") for one in package.findall(".//{*}itemref")]
    assert order == ["book/index.xhtml", "notebooks/1-first.xhtml", "notebooks/2-second.xhtml"]
    assert re.findall(r'<a href="(.*?)"', read(epub, "nav.xhtml"))[:1] + order[1:] == order
    assert "mathml" in next(item for item in items.values() if item.get("href") == order[0]).get("properties")


@pytest.mark.slow
def test_pages_are_xml_and_need_nothing_from_elsewhere(epub: zipfile.ZipFile) -> None:
    for name in (name for name in epub.namelist() if name.endswith(".xhtml")):
        page = ElementTree.fromstring(epub.read(name))
        assert not page.findall(".//{*}script") and not page.findall(".//{*}style")
        for element in page.iter():
            for address in filter(None, [element.get("src"), element.tag.endswith("}link") and element.get("href")]):
                assert posixpath.normpath(posixpath.join(posixpath.dirname(name), address)) in epub.namelist()
    equations = ElementTree.fromstring(epub.read("book/index.xhtml")).findall(".//{*}math")
    assert equations and all(each.tag == "{http://www.w3.org/1998/Math/MathML}math" for each in equations)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["book/index.xhtml", "notebooks/1-first.xhtml"])
def test_an_explorer_is_its_still(epub: zipfile.ZipFile, name: str) -> None:
    page = read(epub, name)
    [source] = re.findall(r'<img[^>]*src="([^"]*\.jpe?g)"', page)
    picture = Image.open(io.BytesIO(epub.read(posixpath.normpath(posixpath.join(posixpath.dirname(name), source)))))
    assert picture.size == (64, 32)
    assert all(abs(have - want) < 4 for have, want in zip(picture.getpixel((9, 9)), ORANGE, strict=True))
    assert page.count("A still of what can be played with") == 1
    assert "played&quot;" not in page and 'class="explorer"' not in page


@pytest.mark.slow
def test_folded_code_is_left_out_and_all_else_is_open(epub: zipfile.ZipFile) -> None:
    page = read(epub, "notebooks/1-first.xhtml")
    assert "folded_code" not in page and "folded_cell" not in page and "open_code" in page
    assert "what a fold hides" in page and "a\N{NO-BREAK SPACE}b<br/>&amp; c" in page
    assert re.search(r'<details open="open">\s*<summary>Solution</summary>', page)
    assert ">Five.<" not in page and "Five. <a" in page and '<a href="2-second.xhtml">Here.</a>' in page


@pytest.mark.slow
def test_links_of_the_joined_pages_lead_to_one_place_each(epub: zipfile.ZipFile, tmp_path: Path) -> None:
    epub.extractall(tmp_path)
    joined = one_file._joined(tmp_path)
    ids = Counter(re.findall(r'\bid="(.*?)"', joined))
    links = re.findall(r'<a[^>]*href="#(.*?)"', joined)
    assert set(ids.values()) == {1} and {"notebooks/1-first.xhtml:exercises", "book/index.xhtml"} <= ids.keys()
    assert {"notebooks/1-first.xhtml", "notebooks/2-second.xhtml", "book/index.xhtml:equation-eq5"} <= set(links)
    assert set(links) <= ids.keys()
    assert all((tmp_path / source).exists() for source in re.findall(r'src="(.*?)"', joined))


@pytest.mark.slow
@pytest.mark.skipif(one_file.chromium() is None, reason="there is no Chromium")
def test_the_pdf_has_each_page_the_links_and_an_outline(bound: Path) -> None:
    pdf = (bound / "perceptual-ball.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b(?!s)", pdf)) == 4  # three and the table of contents
    assert b"/Subtype /Link" in pdf and b"/Outlines" in pdf


@pytest.mark.slow
def test_without_chromium_there_is_the_epub_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = small_clone(tmp_path)
    without_games(monkeypatch)
    monkeypatch.setattr(one_file, "chromium", lambda: None)

    def compute(source: Path, target: Path, *_: object) -> None:
        nbformat.write(nbformat.from_dict(nbformat.read(source, 4) | {"metadata": PYTHON}), target)

    def render(root: Path, out: Path, *_: object) -> None:
        (out / "html").mkdir(exist_ok=True)
        (out / "html" / "index.html").touch()

    monkeypatch.setattr(pages, "compute", compute)
    monkeypatch.setattr(pages, "render", render)
    (clone / "_build" / "notebooks" / "demo").mkdir(parents=True)
    for _ in range(2):  # the second time nothing is done, and it is said again
        assert build("demo", clone, as_one_file=True) == 0
        output = capsys.readouterr().out
        assert "There is no PDF: it needs Chromium or Chrome, and neither is installed here." in output
        assert (clone / "_build" / "perceptual-ball.epub").exists()
        assert not (clone / "_build" / "perceptual-ball.pdf").exists()
    assert "EPUB and PDF: up to date" in output
