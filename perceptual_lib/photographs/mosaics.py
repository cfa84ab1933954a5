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
from perceptual_lib.evaluation.pointing.protocol import Question, is_small
from perceptual_lib.photographs.photographs import Photograph

CELL_SIZE = (224, 224)


@dataclass(frozen=True)
class Mosaic:
    """Four photographs of different classes, with boxes, as one picture.

    name: its identity in tables
    cells: top left, top right, bottom left, bottom right
    cell_size: (height, width) of each in the picture
    """

    name: str
    cells: tuple[Photograph, Photograph, Photograph, Photograph]
    cell_size: tuple[int, int] = CELL_SIZE

    @property
    def files(self) -> tuple[Path, ...]:
        """What the picture is made of."""
        return tuple(file for cell in self.cells for file in cell.files)

    @property
    def upright(self) -> bool:
        """False: photographs with boxes are opened as stored."""
        return False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture in pixels."""
        height, width = self.cell_size
        return 2 * width, 2 * height

    def open(self) -> Image.Image:
        """The picture in RGB, each cell resized bilinearly; raises InputError as `open_picture` does."""
        height, width = self.cell_size
        picture = Image.new("RGB", self.size)
        for cell, corner in zip(self.cells, self._corners, strict=True):
            picture.paste(cell.open().resize((width, height), Image.Resampling.BILINEAR), corner)
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
                boxes=tuple((lt + x, tp + y, rt + x, bt + y) for lt, tp, rt, bt in cell.scaled_boxes(*self.cell_size)),
                hard=is_small(cell),
            )
            for cell, (x, y) in zip(self.cells, self._corners, strict=True)
        )

    @property
    def _corners(self) -> list[tuple[int, int]]:
        """(column, row) of the first pixel of each cell."""
        height, width = self.cell_size
        return [(0, 0), (width, 0), (0, height), (width, height)]


def draw_mosaics(
    photographs: Sequence[Photograph], *, rounds: int = 1, seed: int = 0, cell_size: tuple[int, int] = CELL_SIZE
) -> list[Mosaic]:
    """Mosaics in which each photograph stands equally often: once in each round.

    Args:
        photographs: N with class and boxes, N a multiple of 4, and no class with more than N / 4 of them.
        rounds: times that all photographs are dealt anew, into N / 4 mosaics each.
        seed: of the dealing.
        cell_size: (height, width) of a photograph in the mosaic's picture.

    Raises:
        InputError: photographs that do not fit, or no round.
    """
    if not photographs or len(photographs) % 4 or rounds < 1:
        raise InputError(
            f"{len(photographs)} photographs, {rounds} rounds: give a multiple of four, and a round or more."
        )
    for each in photographs:
        if each.target is None or not each.boxes:
            raise InputError(f"{each.name} has no class or no boxes; mosaics need both.")
    generator = random.Random(seed)
    dealt = [cells for _ in range(rounds) for cells in _deal(photographs, generator)]
    return [Mosaic(f"mosaic_{index:04}", cells, cell_size) for index, cells in enumerate(dealt)]


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
