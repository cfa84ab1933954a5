"""Photographs, against boxes that are known without the code under test."""

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.photographs.sources import load_photographs


def test_with_boxes_it_opens_as_stored_and_else_upright(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    boxed = Photograph("a", tmp_path / "a.png", 0, ((0, 0, 5, 3),), (6, 4))
    assert np.array_equal(boxed.open(), stored)
    assert np.array_equal(Photograph("a", tmp_path / "a.png").open(), np.rot90(stored, -1))


# --- boxes -------------------------------------------------------------------------------------------------


def test_scaled_boxes_by_hand():
    photograph = Photograph("a", Path("a.png"), 0, ((10, 5, 19, 9), (10, 5, 12, 6)), (100, 50))
    # x doubles: columns 10..19 become 20..39; y halves: the edges of rows 5..9, 5 and 10, become 2.5 and 5
    assert photograph.scaled_boxes(25, 200) == [(20, 2.5, 39, 4), (20, 2.5, 25, 2.5)]
    expected = np.zeros((25, 200), dtype=bool)
    expected[2:5, 20:40] = True  # the centre of row 2 is at 2.5, on the edge; the second box lies inside the first
    assert np.array_equal(photograph.box_mask(25, 200), expected)


@pytest.mark.parametrize("height, width", [(224, 224), (7, 13), (683, 1024), (1000, 3)])
def test_a_full_box_stays_full(height, width):
    photograph = Photograph("a", Path("a.png"), 0, ((0, 0, 1023, 682),), (1024, 683))
    assert np.allclose(photograph.scaled_boxes(height, width), [(0, 0, width - 1, height - 1)])
    assert photograph.box_mask(height, width).all()


def test_without_boxes():
    photograph = Photograph("a", Path("a.png"))
    assert photograph.scaled_boxes(8, 8) == [] and not photograph.box_mask(8, 9).any()
    assert photograph.box_mask(8, 9).shape == (8, 9)
    with pytest.raises(InputError, match="no size"):
        Photograph("a", Path("a.png"), 0, ((0, 0, 1, 1),))


NAN = float("nan")


@pytest.mark.parametrize(
    "box", [(9, 2, 1, 8), (1, 8, 9, 2), (1, 2, NAN, 8), (1, 2, 1e999, 8), (20, 2, 30, 8), (1, 2, 9)]
)
def test_a_box_is_four_numbers_and_reaches_into_the_picture(box):
    with pytest.raises(InputError, match="cat (has the box|must have at least one box)"):
        Photograph("cat", Path("cat.png"), 0, ((1, 2, 9, 8), box), (20, 10))
    assert Photograph("cat", Path("cat.png"), 0, ((-5, -5, 0, 30),), (20, 10)).box_mask(10, 20).sum() == 10


def test_a_picture_of_no_size_has_no_boxes():
    with pytest.raises(InputError, match="cat has the box"):
        Photograph("cat", Path("cat.png"), 0, ((0, 0, 1, 1),), (0, 0))


# --- the embedded photographs ------------------------------------------------------------------------------


def test_embedded(monkeypatch):
    monkeypatch.delitem(sys.modules, "foolbox", raising=False)
    photographs = load_photographs()
    assert "foolbox" not in sys.modules  # its import is slow
    classes = [
        243,
        559,
        438,
        990,
        949,
        853,
        609,
        609,
        915,
        455,
        541,
        630,
        741,
        471,
        129,
        99,
        251,
        22,
        317,
        305,
    ]
    assert [photograph.target for photograph in photographs] == classes
    assert [photograph.name for photograph in photographs] == [f"imagenet_{i:02d}" for i in range(20)]
    for photograph in photographs:
        assert photograph.open().size == photograph.size
        assert photograph.boxes
        for left, top, right, bottom in photograph.boxes:
            assert 0 <= left < right < photograph.size[0] and 0 <= top < bottom < photograph.size[1]
    assert len(photographs[4].boxes) == 9  # strawberries
    eagle = photographs[17]  # (0, 122, 511, 364) of 512 x 512
    assert eagle.box_mask(512, 512).sum() == 512 * 243
    assert eagle.box_mask(224, 224).mean() == pytest.approx(243 / 512, abs=1 / 224)
    assert load_photographs(limit=3) == photographs[:3]


def test_without_foolbox(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("perceptual_lib.photographs.sources.distribution", absent)
    with pytest.raises(InputError, match=r"foolbox: pip install .perceptual-ball\[embedded\]"):
        load_photographs()


# --- the user's photographs --------------------------------------------------------------------------------


def test_files_and_folders(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "sub").mkdir()
    assert load_photographs(tmp_path) == [
        Photograph("a", tmp_path / "a.JPG"),
        Photograph("b", tmp_path / "b.png"),
    ]
    assert [photograph.name for photograph in load_photographs(str(tmp_path), limit=1)] == ["a"]
    assert load_photographs(tmp_path / "b.png") == [Photograph("b", tmp_path / "b.png")]
    known = Photograph("known", tmp_path / "a.JPG", 7)
    assert load_photographs(iter([tmp_path / "b.png", known])) == [Photograph("b", tmp_path / "b.png"), known]
    with pytest.raises(InputError, match=r"c\.png is not an existing file"):
        load_photographs(tmp_path / "c.png")
    with pytest.raises(InputError, match="has no pictures"):
        load_photographs(tmp_path / "sub")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be read; give a folder that you may read"):
        load_photographs(tmp_path / "sub")


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_limit_must_be_positive(limit):
    with pytest.raises(InputError, match=f"limit is {limit}"):
        load_photographs(limit=limit)


@pytest.mark.parametrize("source", [5, [5], [None]])
def test_what_is_no_path(source):
    with pytest.raises(InputError, match="(5|None) is not an existing file"):
        load_photographs(source)


def test_files_of_one_stem_have_names_of_their_own(tmp_path):
    """In one folder with two suffixes, and in two folders: tables know photographs by their names."""
    for path in ("a/cat.jpg", "a/cat.png", "a/dog.png", "b/cat.jpg", "b/cat (2).jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / path)
    assert [each.name for each in load_photographs(tmp_path / "a")] == ["cat", "cat (2)", "dog"]
    given = [tmp_path / "a" / "cat.jpg", tmp_path / "b" / "cat.jpg", Photograph("cat", tmp_path / "a" / "dog.png")]
    found = load_photographs([*given, tmp_path / "b" / "cat (2).jpg"])
    assert [each.name for each in found] == ["cat", "cat (2)", "cat (3)", "cat (2) (2)"]
    assert [each.path for each in found[:3]] == [*given[:2], tmp_path / "a" / "dog.png"]
