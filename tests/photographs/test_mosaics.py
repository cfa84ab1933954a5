"""Mosaics: pixels, boxes and the dealing of photographs by counting."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual_lib import InputError, load_photographs
from perceptual_lib.evaluation.pointing.protocol import is_hit
from perceptual_lib.photographs.mosaics import Mosaic, draw_mosaics
from perceptual_lib.photographs.photographs import Photograph

COLOURS = ["red", "lime", "blue", "white"]


def photograph(name: str, target: int | None, box: tuple = (0, 0, 9, 9)) -> Photograph:
    return Photograph(name, Path(name), target, (box,) if box else (), (20, 20))


@pytest.fixture
def mosaic(tmp_path: Path) -> Mosaic:
    """Coloured photographs of 20 x 10 pixels in cells of twice that, each with grey objects."""
    boxes = [((0, 0, 9, 4),), ((10, 5, 19, 9), (0, 0, 1, 1)), ((0, 0, 19, 9),), ((6, 4, 7, 5),)]
    cells = []
    for index, (colour, of_cell) in enumerate(zip(COLOURS, boxes, strict=True)):
        picture = Image.new("RGB", (20, 10), colour)
        for left, top, right, bottom in of_cell:
            picture.paste("gray", (left, top, right + 1, bottom + 1))
        picture.save(tmp_path / f"{index}.png")
        cells.append(Photograph(str(index), tmp_path / f"{index}.png", 10 + index, of_cell, (20, 10)))
    return Mosaic("mosaic", tuple(cells), (20, 40))


def targets(mosaic: Mosaic) -> list[int]:
    return [question.target for question in mosaic.questions]


# --- picture, boxes, difficult subset ------------------------------------------------------------------------


def test_cells_stand_in_rows_and_are_warped(mosaic: Mosaic) -> None:
    mosaic = replace(mosaic, cell_size=(30, 24))
    picture = mosaic.open()
    assert picture.mode == "RGB" and picture.size == mosaic.size == (48, 60)
    for index, (column, row) in enumerate([(0, 0), (24, 0), (0, 30), (24, 30)]):
        expected = mosaic.cells[index].open().resize((24, 30), Image.Resampling.BILINEAR)
        assert picture.crop((column, row, column + 24, row + 30)).tobytes() == expected.tobytes()
    assert mosaic.files == tuple(cell.path for cell in mosaic.cells) and not mosaic.upright
    assert Mosaic("mosaic", mosaic.cells).size == (448, 448)


def test_cells_are_opened_as_stored(mosaic: Mosaic) -> None:
    """Boxes refer to the pixels as stored, whatever the orientation in the file says."""
    picture = mosaic.cells[0].open()
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    before = mosaic.open().tobytes()
    picture.save(mosaic.cells[0].path, exif=exif)
    assert mosaic.open().tobytes() == before


def test_boxes_cover_the_objects_in_the_picture(mosaic: Mosaic) -> None:
    stored = replace(mosaic, cell_size=(10, 20))  # nothing is resized, so that grey stays grey
    pixels = np.asarray(stored.open())
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    for question in stored.questions:
        for left, top, right, bottom in question.boxes:
            mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1] = True
    assert np.array_equal(mask, (pixels == 128).all(2))
    assert mosaic.questions[1].boxes == ((60, 10, 79, 19), (40, 0, 43, 3))
    assert targets(mosaic) == [10, 11, 12, 13]


def test_hard_is_below_a_quarter_of_the_cell(mosaic: Mosaic) -> None:
    hard = [question.hard for question in mosaic.questions]
    assert hard == [False, False, False, True]  # 50, 54, 200 and 4 of 200 pixels


def test_a_neighbour_is_not_hit_from_afar(mosaic: Mosaic) -> None:
    boxes = [question.boxes for question in Mosaic("mosaic", mosaic.cells).questions]
    middles = [[(left + right) / 2, (top + bottom) / 2] for ((left, top, right, bottom), *_) in boxes]
    hits = np.array([is_hit(middles, of_class) for of_class in boxes])
    assert np.array_equal(hits, np.eye(4, dtype=bool))


# --- the list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
def test_each_photograph_equally_often_and_four_classes_each(rounds: int) -> None:
    photographs = load_photographs()
    mosaics = draw_mosaics(photographs, rounds=rounds, seed=5)
    assert len(mosaics) == len({each.name for each in mosaics}) == 5 * rounds
    assert all(len(set(targets(each))) == 4 for each in mosaics)
    for turn in range(rounds):
        cells = [cell.name for each in mosaics[5 * turn : 5 * turn + 5] for cell in each.cells]
        assert sorted(cells) == [each.name for each in photographs]


def test_the_seed_decides() -> None:
    photographs = [photograph(str(index), index) for index in range(16)]
    mosaics = draw_mosaics(photographs, rounds=4, seed=1)
    assert mosaics == draw_mosaics(photographs, rounds=4, seed=1)
    assert mosaics != draw_mosaics(photographs, rounds=4, seed=2)
    assert mosaics[:4] == draw_mosaics(photographs, seed=1)
    assert len({frozenset(targets(each)) for each in mosaics}) > 12  # hardly any four meet twice
    larger = draw_mosaics(photographs, seed=1, cell_size=(300, 200))
    assert [each.cells for each in larger] == [each.cells for each in mosaics[:4]] and larger[0].size == (400, 600)


def test_cells_of_a_photograph_vary() -> None:
    photographs = [photograph(str(index), index) for index in range(4)]
    corners = Counter(targets(each)[0] for each in draw_mosaics(photographs, rounds=400))
    assert set(corners) == {0, 1, 2, 3} and min(corners.values()) > 60


def test_classes_with_several_photographs() -> None:
    """Four classes, a quarter each: each mosaic must take one of each."""
    photographs = [photograph(str(index), index % 4) for index in range(12)]
    for seed in range(20):
        assert all(set(targets(each)) == {0, 1, 2, 3} for each in draw_mosaics(photographs, seed=seed))


@pytest.mark.parametrize(
    ("photographs", "rounds", "message"),
    [
        ([], 1, "0 photographs"),
        ([photograph(str(index), index) for index in range(6)], 1, "multiple of four"),
        ([photograph(str(index), index) for index in range(4)], 0, "0 rounds"),
        ([photograph(str(index), index // 2) for index in range(4)], 1, "more than a quarter"),
        ([photograph(str(index), None) for index in range(4)], 1, "0 has no class"),
        ([photograph(str(index), index, ()) for index in range(4)], 1, "no boxes"),
    ],
)
def test_bad_photographs(photographs: list, rounds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_mosaics(photographs, rounds=rounds)
