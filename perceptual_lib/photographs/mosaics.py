"""Mosaics of photographs: pictures of several objects, for the pointing game without VOC.

Four photographs of different classes, each warped to a cell of 224 x 224 pixels, in two rows of two. A question is
asked for each class, and the other three can be mistaken for it. The embedded network can tell where the classes are:
on ImageNet its largest response lies in the right cell for 88 % of the questions where the network's input is 224
pixels wide, and for 98 % at 336 (1.5 x).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.boxes import Question, is_small
from perceptual_lib.photographs.photographs import Photograph

CELL_SIZE = 224  # pixels, of either side
CORNERS = ((0, 0), (CELL_SIZE, 0), (0, CELL_SIZE), (CELL_SIZE, CELL_SIZE))  # (column, row) of each cell's first pixel


@dataclass(frozen=True)
class Mosaic:
    """Four photographs of different classes, with boxes, as one picture."""

    name: str  # its identity in tables
    cells: tuple[Photograph, Photograph, Photograph, Photograph]
    size = (2 * CELL_SIZE, 2 * CELL_SIZE)  # (width, height) in pixels
    upright = False  # photographs with boxes are opened as stored

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(cell.path for cell in self.cells)

    def open(self) -> Image.Image:
        """The picture in RGB, each cell resized bilinearly; raises InputError as `open_picture` does."""
        picture = Image.new("RGB", self.size)
        for cell, corner in zip(self.cells, CORNERS, strict=True):
            picture.paste(cell.open().resize((CELL_SIZE, CELL_SIZE), Image.Resampling.BILINEAR), corner)
        return picture

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """One for each cell, in their order. It is hard if its boxes cover less than a quarter of their photograph: no
        object covers more than a quarter of the picture, VOC's limit. Other classes are always there."""
        questions = []
        for cell, (x, y) in zip(self.cells, CORNERS, strict=True):
            boxes = ((lt + x, tp + y, rt + x, bt + y) for lt, tp, rt, bt in cell.scaled_boxes(CELL_SIZE, CELL_SIZE))
            questions.append(Question(cell.target, tuple(boxes), hard=is_small(cell.boxes, cell.size)))
        return tuple(questions)


def draw_mosaics(photographs: Sequence[Photograph]) -> list[Mosaic]:
    """Mosaics in which each photograph appears once, the same ones at each call.

    Raises InputError unless all photographs have a class and boxes, their number is a multiple of four, and no class
    has more than a quarter of them.
    """
    if not photographs or len(photographs) % 4:
        raise InputError(f"{len(photographs)} photographs make no mosaics: give a multiple of four.")
    for each in photographs:
        if each.target is None or not each.boxes:
            raise InputError(f"{each.name} has no class or no boxes; mosaics need both.")
    generator = random.Random(0)
    targets = sorted({each.target for each in photographs})
    places = {target: place for place, target in enumerate(generator.sample(targets, len(targets)))}
    row = sorted(generator.sample(photographs, len(photographs)), key=lambda each: places[each.target])
    # The row is sorted by class: photographs a quarter of it apart differ in class, unless a class is longer.
    quadruples = [row[start :: len(row) // 4] for start in range(len(row) // 4)]
    if any(len({each.target for each in cells}) < 4 for cells in quadruples):
        raise InputError("more than a quarter of the photographs are of one class; mosaics need four different ones.")
    return [Mosaic(f"mosaic_{n:04}", tuple(generator.sample(cells, 4))) for n, cells in enumerate(quadruples)]
