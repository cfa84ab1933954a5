"""ImageNet's validation set in its usual layouts, on small trees that the tests make."""

import os
from pathlib import Path

import pytest
from layouts import annotation
from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.photographs.sources import load_photographs

TENCH, TISSUE = "n01440764", "n15075141"  # the first and the last class of ImageNet


def stem(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def add_image(folder: Path, number: int, size: tuple[int, int] = (20, 10)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / f"{stem(number)}.JPEG")
    return folder / f"{stem(number)}.JPEG"


def add_annotation(folder: Path, number: int, wnid: str = TENCH, boxes=((1, 2, 11, 8),)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(number)}.xml"
    path.write_text(annotation((20, 10), [(wnid, 0, box) for box in boxes]), "utf-8")
    return path


def add_solution(folder: Path) -> None:
    (folder / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\n{stem(2)},{TISSUE} 0 1 2 3 {TISSUE} 4 5 6 7 \n{stem(1)},{TENCH} 1 2 11 8 \n"
    )


def test_official_layout(tmp_path):
    second, first = add_image(tmp_path, 2), add_image(tmp_path, 1)
    add_annotation(tmp_path / "val", 1)
    add_annotation(tmp_path / "val", 2, TISSUE, [(0, 1, 2, 3), (4, 5, 6, 7)])
    assert load_photographs(tmp_path) == [
        Photograph(stem(1), first, 0, ((1, 2, 11, 8),), (20, 10)),
        Photograph(stem(2), second, 999, ((0, 1, 2, 3), (4, 5, 6, 7)), (20, 10)),
    ]


@pytest.mark.parametrize("given", [".", "ILSVRC"])
def test_kaggle_layout_with_its_table_only(tmp_path, given):
    first = add_image(tmp_path / "ILSVRC/Data/CLS-LOC/val", 1)
    second = add_image(tmp_path / "ILSVRC/Data/CLS-LOC/val", 2, (30, 40))
    add_image(tmp_path / "ILSVRC/Data/CLS-LOC/train", 3)  # not looked at
    add_solution(tmp_path)
    assert load_photographs(tmp_path / given) == [
        Photograph(stem(1), first, 0, ((1, 2, 11, 8),), (20, 10)),
        Photograph(stem(2), second, 999, ((0, 1, 2, 3), (4, 5, 6, 7)), (30, 40)),
    ]


def test_annotations_go_before_the_table(tmp_path):
    add_image(tmp_path, 1), add_image(tmp_path, 2)
    add_annotation(tmp_path, 1, TENCH, [(3, 3, 4, 4)])
    add_solution(tmp_path)
    assert [len(photograph.boxes) for photograph in load_photographs(tmp_path)] == [1, 2]
    assert load_photographs(tmp_path)[0].boxes == ((3, 3, 4, 4),)


def test_torchvision_layout_behind_a_link(tmp_path):
    first, second = add_image(tmp_path / "data" / TENCH, 1), add_image(tmp_path / "data" / TISSUE, 2)
    root = tmp_path / "root"
    add_annotation(root / "boxes", 1), add_annotation(root / "boxes", 2, TISSUE)
    (root / "val").symlink_to(tmp_path / "data")
    (root / "loop").symlink_to(root)
    found = load_photographs(root)
    assert [photograph.target for photograph in found] == [0, 999]
    assert [photograph.path.resolve() for photograph in found] == [first.resolve(), second.resolve()]


def test_only_what_is_needed_is_read(tmp_path):
    add_image(tmp_path, 1), add_image(tmp_path, 2)
    add_annotation(tmp_path, 1)
    assert len(load_photographs(tmp_path, limit=1)) == 1  # the second picture has no boxes
    with pytest.raises(InputError, match=f"{stem(2)}.JPEG has no boxes.*{stem(2)}.xml.*LOC_val_solution.csv"):
        load_photographs(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "<annotation><size>",
        "",
        "<annotation/>",
        "<annotation><size><width>9</width><height>9</height></size></annotation>",
    ],
)
def test_bad_annotation(tmp_path, text):
    add_image(tmp_path, 1)
    add_annotation(tmp_path, 1).write_text(text)
    with pytest.raises(InputError, match=f"{stem(1)}.xml"):
        load_photographs(tmp_path)


def test_files_that_are_links_to_nothing(tmp_path):
    add_image(tmp_path, 1)
    (tmp_path / f"{stem(1)}.xml").symlink_to(tmp_path / "unplugged.xml")
    with pytest.raises(InputError, match=f"{stem(1)}.xml is not an annotation.*FileNotFoundError"):
        load_photographs(tmp_path)
    (tmp_path / f"{stem(1)}.xml").unlink()
    (tmp_path / "LOC_val_solution.csv").symlink_to(tmp_path / "unplugged.csv")
    with pytest.raises(InputError, match="LOC_val_solution.csv is not Kaggle's table"):
        load_photographs(tmp_path)


def test_boxes_without_an_area(tmp_path):
    add_image(tmp_path, 1), add_image(tmp_path, 2)
    add_annotation(tmp_path, 2, boxes=[(9, 2, 1, 8)])
    add_solution(tmp_path)
    with pytest.raises(InputError, match=f"{stem(2)} has the box"):
        load_photographs(tmp_path)
    (tmp_path / f"{stem(2)}.xml").unlink()
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{stem(1)},{TENCH} 1 2 nan 8\n")
    with pytest.raises(InputError, match=f"{stem(1)} has the box"):
        load_photographs(tmp_path)


def test_unknown_class(tmp_path):
    add_image(tmp_path, 1)
    add_annotation(tmp_path, 1, "n00000000")
    with pytest.raises(InputError, match=f"{stem(1)}.xml.*n00000000"):
        load_photographs(tmp_path)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", f"ImageId,PredictionString\n{stem(1)},{TENCH} 1 2 11\n"])
def test_bad_table(tmp_path, text):
    add_image(tmp_path, 1)
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    with pytest.raises(InputError, match="is not Kaggle's table"):
        load_photographs(tmp_path)


@pytest.mark.skipif("IMAGENET_ROOT" not in os.environ, reason="IMAGENET_ROOT does not name a copy of ImageNet")
def test_real_imagenet():
    photographs = load_photographs(os.environ["IMAGENET_ROOT"], limit=300)
    assert len(photographs) == 300
    assert [photograph.name for photograph in photographs] == sorted(p.name for p in photographs)
    for photograph in photographs:
        assert 0 <= photograph.target <= 999 and photograph.boxes
        for left, top, right, bottom in photograph.boxes:
            assert 0 <= left <= right <= photograph.size[0] and 0 <= top <= bottom <= photograph.size[1]
    for photograph in photographs[::50]:
        assert photograph.open().size == photograph.size
