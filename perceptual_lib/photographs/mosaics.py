"""Mosaics of photographs: scenes of several objects, for the pointing game without VOC.

Four photographs of different classes, each warped to a cell of 224 x 224 pixels, in two rows of two:

    0 1
    2 3

The question is asked for each of the four classes, whose boxes are known, and the other three are there to be mistaken
for it.

A mosaic is treated as the paper treats a picture of VOC. The network sees all of it at once, with a short side of 224
pixels ("original size", so that a photograph has 112) or of 336 (1.5 x); the map is resized to the mosaic's own
448 x 448, where its maximum is taken and the 15 pixels of tolerance are counted. The embedded network can tell where
the classes are: on ImageNet its largest response lies in the right cell for 88 % of the questions at 224 pixels, and
for 98 % at 336.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.photographs.scenes import Question, is_small

CELL_SIZE = 224  # pixels, of either side
CORNERS = ((0, 0), (CELL_SIZE, 0), (0, CELL_SIZE), (CELL_SIZE, CELL_SIZE))  # (column, row) of each cell's first pixel


@dataclass(frozen=True)
class Mosaic:
    """Four photographs of different classes, with boxes, as one picture.

    name: its identity in tables
    cells: top left, top right, bottom left, bottom right
    """

    name: str
    cells: tuple[Photograph, Photograph, Photograph, Photograph]
    size = (2 * CELL_SIZE, 2 * CELL_SIZE)  # (width, height) in pixels
    upright = False  # photographs with boxes are opened as stored

    @property
    def files(self) -> tuple[Path, ...]:
        """What the picture is made of."""
        return tuple(file for cell in self.cells for file in cell.files)

    def open(self) -> Image.Image:
        """The picture in RGB, each cell resized bilinearly; raises InputError as `open_picture` does."""
        picture = Image.new("RGB", self.size)
        for cell, corner in zip(self.cells, CORNERS, strict=True):
            picture.paste(cell.open().resize((CELL_SIZE, CELL_SIZE), Image.Resampling.BILINEAR), corner)
        return picture

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """One for each cell, in their order.

        In VOC an object is small below a quarter of the picture. No object of a mosaic exceeds that, so a quarter of
        its cell is the limit here, a sixteenth of the mosaic: the photograph alone would be small. A distractor, the
        other condition for a hard question, is always there.
        """
        return tuple(
            Question(
                target=cell.target,
                boxes=tuple(
                    (left + x, top + y, right + x, bottom + y)
                    for left, top, right, bottom in cell.scaled_boxes(CELL_SIZE, CELL_SIZE)
                ),
                hard=is_small(cell.boxes, cell.size),
            )
            for cell, (x, y) in zip(self.cells, CORNERS, strict=True)
        )


def draw_mosaics(photographs: Sequence[Photograph]) -> list[Mosaic]:
    """Mosaics in which each photograph stands once, the same at each call.

    Args:
        photographs: N with class and boxes, N a multiple of 4, and no class with more than N / 4 of them.

    Raises:
        InputError: photographs that do not fit.
    """
    if not photographs or len(photographs) % 4:
        raise InputError(f"{len(photographs)} photographs make no mosaics: give a multiple of four.")
    for each in photographs:
        if each.target is None or not each.boxes:
            raise InputError(f"{each.name} has no class or no boxes; mosaics need both.")
    return [Mosaic(f"mosaic_{index:04}", cells) for index, cells in enumerate(_deal(photographs, random.Random(0)))]


def _deal(photographs: Sequence[Photograph], generator: random.Random) -> list[tuple[Photograph, ...]]:
    """All photographs in quadruples of different classes.

    In a row in which classes stand together, photographs a quarter of the row apart differ in class, unless a class
    has more than a quarter of them.
    """
    targets = sorted({each.target for each in photographs})
    places = dict(zip(generator.sample(targets, len(targets)), range(len(targets)), strict=True))
    row = sorted(generator.sample(photographs, len(photographs)), key=lambda each: places[each.target])
    quadruples = [row[start :: len(row) // 4] for start in range(len(row) // 4)]
    if any(len({each.target for each in cells}) < 4 for cells in quadruples):
        raise InputError("more than a quarter of the photographs are of one class; mosaics need four different ones.")
    return [tuple(generator.sample(cells, 4)) for cells in quadruples]
