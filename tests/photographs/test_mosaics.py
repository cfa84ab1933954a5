"""Mosaics: pixels, boxes and the dealing of photographs by counting."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual_lib import InputError, load_photographs
from perceptual_lib.photographs.mosaics import CELL_SIZE, Mosaic, draw_mosaics
from perceptual_lib.photographs.photographs import Photograph

COLOURS = ["red", "lime", "blue", "white"]


def photograph(name: str, target: int | None, box: tuple = (0, 0, 9, 9)) -> Photograph:
    return Photograph(name, Path(name), target, (box,) if box else (), (20, 20))


def coloured(folder: Path, size: tuple[int, int], boxes: list) -> Mosaic:
    """Photographs of one size and of a colour each, with grey objects."""
    cells = []
    for index, (colour, of_cell) in enumerate(zip(COLOURS, boxes, strict=True)):
        picture = Image.new("RGB", size, colour)
        for left, top, right, bottom in of_cell:
            picture.paste("gray", (left, top, right + 1, bottom + 1))
        picture.save(folder / f"{index}.png")
        cells.append(Photograph(str(index), folder / f"{index}.png", 10 + index, of_cell, size))
    return Mosaic("mosaic", tuple(cells))


@pytest.fixture
def mosaic(tmp_path: Path) -> Mosaic:
    """Of photographs with half a cell's height and an eighth of its width."""
    boxes = [((0, 0, 9, 63),), ((14, 56, 27, 111), (0, 0, 1, 1)), ((0, 0, 27, 111),), ((6, 4, 7, 5),)]
    return coloured(tmp_path, (28, 112), boxes)


def targets(mosaic: Mosaic) -> list[int]:
    return [question.target for question in mosaic.questions]


# --- picture, boxes, difficult subset ------------------------------------------------------------------------


def test_cells_stand_in_rows_and_are_warped(mosaic: Mosaic) -> None:
    picture = mosaic.open()
    assert picture.mode == "RGB" and picture.size == mosaic.size == (448, 448)
    for index, (column, row) in enumerate([(0, 0), (224, 0), (0, 224), (224, 224)]):
        expected = mosaic.cells[index].open().resize((224, 224), Image.Resampling.BILINEAR)
        assert picture.crop((column, row, column + 224, row + 224)).tobytes() == expected.tobytes()
    assert mosaic.files == tuple(cell.path for cell in mosaic.cells)


def test_cells_are_opened_as_stored(mosaic: Mosaic) -> None:
    """Boxes refer to the pixels as stored, whatever the orientation in the file says."""
    picture = mosaic.cells[0].open()
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    before = mosaic.open().tobytes()
    picture.save(mosaic.cells[0].path, exif=exif)
    assert mosaic.open().tobytes() == before


def test_boxes_cover_the_objects_in_the_picture(mosaic: Mosaic, tmp_path: Path) -> None:
    boxes = [((0, 0, 99, 50),), ((10, 5, 223, 223), (0, 0, 1, 1)), ((0, 0, 223, 223),), ((6, 4, 7, 5),)]
    stored = coloured(tmp_path, (CELL_SIZE, CELL_SIZE), boxes)  # nothing is resized, so that grey stays grey
    pixels = np.asarray(stored.open())
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    for question in stored.questions:
        for left, top, right, bottom in question.boxes:
            mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1] = True
    assert np.array_equal(mask, (pixels == 128).all(2))
    # Of half the height and an eighth of the width, in the second cell: x 8 and 224 to the right, y 2.
    assert mosaic.questions[1].boxes == ((336, 112, 447, 223), (224, 0, 239, 3))
    assert targets(mosaic) == [10, 11, 12, 13]


def test_hard_is_below_a_quarter_of_the_cell(mosaic: Mosaic) -> None:
    hard = [question.hard for question in mosaic.questions]
    assert hard == [True, False, False, True]  # 640, 788, 3136 and 4 of 3136 pixels
    first = replace(mosaic.cells[0], boxes=((0, 0, 6, 111),))  # 784: exactly a quarter
    assert not Mosaic("mosaic", (first, *mosaic.cells[1:])).questions[0].hard


# --- the list ------------------------------------------------------------------------------------------------


def test_each_photograph_once_and_four_classes_each() -> None:
    photographs = load_photographs()
    mosaics = draw_mosaics(photographs)
    assert [each.name for each in mosaics] == [f"mosaic_000{index}" for index in range(5)]
    assert all(len(set(targets(each))) == 4 for each in mosaics)
    assert sorted(cell.name for each in mosaics for cell in each.cells) == [each.name for each in photographs]
    assert draw_mosaics(photographs) == mosaics


def test_cells_of_a_photograph_vary() -> None:
    photographs = [photograph(f"{index:03}", index) for index in range(400)]
    mosaics = draw_mosaics(photographs)
    first = [int(each.cells[0].name) for each in mosaics]
    assert np.mean(first) == pytest.approx(199.5, abs=4 * 115 / 10)  # as of a hundred drawn at random
    assert np.corrcoef(first, [int(each.cells[3].name) for each in mosaics])[0, 1] == pytest.approx(0, abs=0.4)


def test_classes_with_several_photographs() -> None:
    """Four classes, a quarter each: each mosaic must take one of each."""
    photographs = [photograph(str(index), index % 4) for index in range(12)]
    assert all(set(targets(each)) == {0, 1, 2, 3} for each in draw_mosaics(photographs))


@pytest.mark.parametrize(
    ("photographs", "message"),
    [
        ([], "0 photographs"),
        ([photograph(str(index), index) for index in range(6)], "multiple of four"),
        ([photograph(str(index), index // 2) for index in range(4)], "more than a quarter"),
        ([photograph(str(index), None) for index in range(4)], "0 has no class"),
        ([photograph(str(index), index, ()) for index in range(4)], "no boxes"),
    ],
)
def test_bad_photographs(photographs: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_mosaics(photographs)
