"""The paper profile's book: every page speaks of its own run, and of no other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")  # the unit tests can do without it

from clones import ROOT, copy_repository, edit, one_core  # noqa: E402
from layouts import write_imagenet, write_voc  # noqa: E402
from nbformat import NotebookNode  # noqa: E402

from perceptual_lib import load_photographs  # noqa: E402

OTHERS = re.compile(
    r"imagenet-300|efficientnet|mosaic|published run|profile demo|profile smoke|another network|embedded network"
    r"|everything forgotten|scene four times|cost too much",
    re.I,
)
"""What speaks of another run than this one: its name, its network, its pictures."""

WIDTHS = r"\b(64|128|256|512|4096)\b"  # of the layers of the VGGs
NARROW = f"""
import inspect, re

from torchvision.models import vgg


def narrow(code):
    return re.sub(r"{WIDTHS}", lambda width: str(int(width[0]) // 8), code)


exec(narrow(inspect.getsource(vgg.VGG)), vars(vgg))
vgg.cfgs.update(eval(narrow(str(vgg.cfgs))))
"""


def make_small(library: Path) -> None:
    """Let VGG19bn see pictures of 64 pixels, and the layers of both VGGs have an eighth of the channels.

    They have the same layers by the same names, and take a hundredth of the time.
    """
    edit(library / "networks" / "sources.py", "(transforms.crop_size[0],) * 2", "(64, 64)")
    (library / "networks" / "__init__.py").write_text(NARROW)
    for path in (library / "networks" / "vgg16_voc.py", library / "core" / "settings.py"):
        path.write_text(re.sub(WIDTHS, lambda width: str(int(width[0]) // 8), path.read_text()))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NotebookNode]:
    """The computed notebooks of the profile `paper-small`, by name."""
    clone, data = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("data")
    copy_repository(clone)
    make_small(clone / "perceptual_lib")
    (clone / "book" / "api.md").write_text("# API reference\n")  # the smoke book has it: it is half of making the site
    write_imagenet(data / "imagenet", 2)
    objects = [("dog", 0, (5, 5, 30, 30)), ("person", 0, (40, 10, 95, 75))]  # a small one and a larger one
    scenes = [(each.open().resize((100, 80)), objects) for each in load_photographs(limit=2)]
    write_voc(data / "voc", dict(zip(("000001", "000002"), scenes, strict=True)))
    told = {"IMAGENET_ROOT": str(data / "imagenet"), "VOC_ROOT": str(data / "voc"), "PYTHONPATH": str(clone)}
    # Nobody reads previews.
    build = "pipeline._preview = lambda book: None; sys.exit(pipeline.build('paper-small', Path()))"
    imports = "import sys; from pathlib import Path; from perceptual_lib.book import pipeline"
    command = [sys.executable, "-c", f"{imports}; {build}"]
    with one_core(min):  # the smoke book has the other one
        done = subprocess.run(command, cwd=clone, env=os.environ | told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = (clone / "_build" / "notebooks" / "paper-small").glob("*.ipynb")
    return {path.stem: nbformat.read(path, 4) for path in paths}


def said(cell: NotebookNode) -> str:
    """What a reader sees of a cell beside its code, or hears: its caption and alternative text, too."""
    if cell.cell_type == "markdown":
        return cell.source
    about = cell.metadata.get("mystnb", {})
    texts = [about[kind][name] for kind, name in (("figure", "caption"), ("image", "alt")) if kind in about]
    shown = [output.get("data", {}) for output in cell.outputs] + [
        output for output in cell.outputs if "text" in output
    ]
    texts += [str(data.get(kind, "")) for data in shown for kind in ("text/markdown", "text/html", "text")]
    return "\n".join(texts)


@pytest.mark.slow
def test_every_page_speaks_of_this_run_alone(pages: dict[str, NotebookNode]) -> None:
    assert set(pages) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    texts = [("index", (ROOT / "book" / "index.md").read_text(encoding="utf-8"))]  # its figure and headline are cells'
    texts += [(name, said(cell)) for name, page in pages.items() for cell in page.cells]
    texts = [(name, re.sub(r"(?s)```.*?```|<details>.*?</details>", "", text)) for name, text in texts]
    found = {
        f"{name}: {match[0]} in {text[max(0, match.start() - 60) : match.end() + 20]!r}"
        for name, text in texts
        if name != "speed"  # it is of the machines that it names
        for match in OTHERS.finditer(text)
    }
    assert found == set()


@pytest.mark.slow
def test_the_tables_are_of_the_papers_network_and_settings(pages: dict[str, NotebookNode]) -> None:
    text = {name: "\n".join(map(said, page.cells)) for name, page in pages.items()}
    own = "This is this book's own run, of the profile paper-small."
    for name in ("4-explanations", "4.2-weak-localization", "4.3-insertion-deletion", "4.5-sanity-checks"):
        assert f"{own} vgg19_bn on" in text[name], name
    assert f"{own} vgg16_voc on" in text["4.4-pointing-game"] and "own run is on VOC 2007" in text["4.4-pointing-game"]
    assert "The same at sigma = 20 for all methods" in text["4.2-weak-localization"]
    for blur in ("at the paper's blur", "<small>sigma 48</small>", "<small>sigma 30</small>"):  # at each scale one
        assert blur in text["4.4-pointing-game"]
    assert "leaves layers as they were trained" in text["4.5-sanity-checks"]  # VGG19bn's cascade resets five of sixteen
