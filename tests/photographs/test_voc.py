"""VOC 2007: a small tree in the layout of the download."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from layouts import write_voc
from PIL import Image

from perceptual_lib import InputError
from perceptual_lib.networks.pictures import open_picture
from perceptual_lib.networks.vgg16_voc import VOC_CLASSES
from perceptual_lib.photographs import voc
from perceptual_lib.photographs.boxes import Question, box_mask, is_small
from perceptual_lib.photographs.voc import load_hard_pairs, load_voc

CAT, DOG, PERSON = map(VOC_CLASSES.index, ("cat", "dog", "person"))

# (class, VOC's flag, box as VOC writes it: counted from 1, both ends inside), in pictures of 20 x 10 pixels
OBJECTS = {
    "000001": [("dog", 0, (3, 2, 6, 5)), ("person", 0, (1, 1, 20, 10)), ("dog", 1, (10, 10, 10, 10))],
    "000004": [("cat", 1, (1, 1, 2, 2)), ("person", 1, (5, 5, 6, 6))],
    "000008": [("cat", 0, (1, 1, 9, 5))],  # small, and alone
    "000010": [("cat", 0, (1, 1, 10, 5)), ("dog", 1, (1, 1, 1, 1))],  # exactly a quarter
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = write_voc(tmp_path, {name: (Image.new("RGB", (20, 10)), objects) for name, objects in OBJECTS.items()})
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages/000002.jpg")  # of another set
    return tmp_path


def hide_the_published_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc, "load_hard_pairs", lambda: None)


# --- pictures, classes and boxes -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_a_class_is_asked_for_unless_all_its_objects_are_flagged(
    tree: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_the_published_list(monkeypatch)
    scenes = load_voc(tree / below)
    assert [scene.name for scene in scenes] == list(OBJECTS)
    assert scenes[0].size == (20, 10) and scenes[0].path.name == "000001.jpg"
    assert [scene.before for scene in scenes] == [0, 2, 4, 5]  # two classes, two of which nothing is asked, one
    assert [scene.questions for scene in scenes] == [
        (
            Question(DOG, ((2, 1, 5, 4), (9, 9, 9, 9)), hard=True),  # the flagged dog is part of the region
            Question(PERSON, ((0, 0, 19, 9),), hard=False),
        ),
        (),  # all its objects are flagged
        (Question(CAT, ((0, 0, 8, 4),), hard=False),),  # small, and alone
        (Question(CAT, ((0, 0, 9, 4),), hard=False),),  # exactly a quarter
    ]


def test_a_picture_that_is_listed_twice_counts_once(tree: Path) -> None:
    listed = tree / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    listed.write_text(f"{listed.read_text()}\n000004\n000001\n")
    assert [scene.name for scene in load_voc(tree)] == list(OBJECTS)


def test_a_scene_is_opened_as_stored(tree: Path) -> None:
    scene = load_voc(tree)[0]
    assert scene.files == (scene.path,)
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    Image.new("RGB", (20, 10)).save(scene.path, exif=exif)
    assert scene.open().size == open_picture(scene).size == scene.size
    assert open_picture(scene.path).size == (10, 20)


def test_the_same_region_as_torchray(tree: Path) -> None:
    torchray = pytest.importorskip("torchray.benchmark.datasets")
    data = torchvision.datasets.VOCDetection(tree, year="2007", image_set="test")
    assert list(torchray.VOC_CLASSES) == VOC_CLASSES
    for scene, (_, target) in zip(load_voc(tree), data, strict=True):
        for question in scene.questions:
            expected = torchray.voc_as_mask(target, question.target).numpy()
            assert np.array_equal(box_mask(question.boxes, 10, 20), expected)


def test_what_is_missing_is_said(tree: Path) -> None:
    folder = tree / "VOCdevkit/VOC2007"
    with pytest.raises(InputError, match=r"download https://\S+VOCtest\S+tar and unpack it into that folder"):
        load_voc(tree / "elsewhere")
    text = (folder / "Annotations/000008.xml").read_text()
    for broken in ("<annotation>", "<annotation/>", text.replace("20<", "0<"), text.replace("xmin", "left")):
        (folder / "Annotations/000008.xml").write_text(broken)
        with pytest.raises(InputError, match=r"000008.xml is not an annotation of a picture"):
            load_voc(tree)
    (folder / "Annotations/000008.xml").write_text(text.replace("cat", "lynx"))
    with pytest.raises(InputError, match=r"000008.xml has the class 'lynx', which is none of VOC's"):
        load_voc(tree)
    (folder / "Annotations/000008.xml").write_text(text.replace("xmax>9", "xmax>-9"))
    with pytest.raises(InputError, match=r"000008 has the box \(0.0, 0.0, -10.0, 4.0\)"):
        load_voc(tree)
    (folder / "Annotations/000008.xml").unlink()
    with pytest.raises(InputError, match=r"000008.xml is missing; unpack https"):
        load_voc(tree)
    (folder / "JPEGImages/000004.jpg").unlink()
    with pytest.raises(InputError, match=r"000004.jpg is missing; unpack https"):
        load_voc(tree)
    for content in (b"\n", b"\xff"):
        (folder / "ImageSets/Main/test.txt").write_bytes(content)
        with pytest.raises(InputError, match="names no picture"):
            load_voc(tree)


# --- the difficult subset ------------------------------------------------------------------------------------


def test_small_is_below_a_quarter_of_the_picture_and_overlaps_count_once() -> None:
    def small(*boxes: tuple) -> bool:
        return is_small(boxes, (20, 10))

    assert not small((0, 0, 9, 4))  # 50 of 200 pixels
    assert small((0, 0, 9, 3), (10, 0, 18, 0))  # 49
    assert small((0, 0, 9, 3), (0, 0, 9, 3))
    assert not small((0, 0, 9, 3), (0, 5, 9, 8))


def test_the_published_list_goes_first(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"000001": [PERSON], "000002": [], "000008": [CAT, PERSON]}
    lines = ["\t".join([name, *(str(int(target in hard)) for target in range(20))]) for name, hard in rows.items()]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    torchray = SimpleNamespace(locate_file=lambda name: tmp_path / "list.txt")
    monkeypatch.setattr(voc, "distribution", lambda name: torchray)
    assert load_hard_pairs() == {("000001", PERSON), ("000008", CAT), ("000008", PERSON)}
    hard = {(scene.name, each.target) for scene in load_voc(tree) for each in scene.questions if each.hard}
    assert hard == {("000001", PERSON), ("000008", CAT)}


def test_the_published_list_in_torchray() -> None:
    """VOC's picture 000001 shows a small dog before a person who fills it."""
    pytest.importorskip("torchray")
    hard = load_hard_pairs()
    assert [pair for pair in hard if pair[0] == "000001"] == [("000001", DOG)]
    assert {target for _, target in hard} == set(range(20))


@pytest.mark.skipif("VOC_ROOT" not in os.environ, reason="VOC_ROOT does not name a copy of VOC 2007's test set")
def test_real_voc() -> None:
    scenes = load_voc(os.environ["VOC_ROOT"])
    assert len(scenes) == 4952 and scenes[0].name == "000001"
    for scene in scenes:
        for left, top, right, bottom in (box for question in scene.questions for box in question.boxes):
            assert 0 <= left <= right < scene.size[0] and 0 <= top <= bottom < scene.size[1]
    assert all(scene.open().size == scene.size for scene in scenes[::500])
