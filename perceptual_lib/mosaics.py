"""Mosaics of photographs: several objects in one picture, for the pointing game without VOC.

Four photographs of different classes, each warped to the network's input size, in two rows of two:

    0 1
    2 3

The network sees the mosaic at its full size, all at once. The question is asked for each of the four classes, whose
boxes are known, and the other three are there to be mistaken for it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.classifiers import Classifier
from perceptual_lib.errors import InputError
from perceptual_lib.images import Box, Photograph
from perceptual_lib.protocols.pointing import is_small


@dataclass(frozen=True)
class Mosaic:
    """Four photographs of different classes, with boxes.

    name: its identity in tables
    cells: top left, top right, bottom left, bottom right
    """

    name: str
    cells: tuple[Photograph, Photograph, Photograph, Photograph]

    @property
    def targets(self) -> tuple[int, ...]:
        """The class of each cell."""
        return tuple(cell.target for cell in self.cells)

    @property
    def hard(self) -> tuple[bool, ...]:
        """For each cell, whether its question belongs to the difficult subset.

        In VOC an object is small below a quarter of the picture. No object of a mosaic exceeds that, so a quarter of
        its cell is the limit here, a sixteenth of the mosaic: the photograph alone would be small. A distractor, the
        other condition, is always there.
        """
        return tuple(is_small(cell) for cell in self.cells)

    def picture(self, height: int, width: int, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
        """The mosaic in RGB, 2 height x 2 width, of cells of height x width, such as a network's input size."""
        picture = Image.new("RGB", (2 * width, 2 * height))
        for cell, (x, y) in zip(self.cells, _corners(height, width), strict=True):
            picture.paste(cell.open().resize((width, height), resampling), (x, y))
        return picture

    def boxes(self, height: int, width: int) -> list[list[Box]]:
        """For each cell, the boxes in the frame of that picture, as floats, both ends inside."""
        return [
            [(lt + x, tp + y, rt + x, bt + y) for lt, tp, rt, bt in cell.scaled_boxes(height, width)]
            for cell, (x, y) in zip(self.cells, _corners(height, width), strict=True)
        ]


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    """(column, row) of the first pixel of each cell."""
    return [(0, 0), (width, 0), (0, height), (width, height)]


def draw_mosaics(photographs: Sequence[Photograph], *, rounds: int = 1, seed: int = 0) -> list[Mosaic]:
    """Mosaics in which each photograph stands equally often: once in each round.

    Args:
        photographs: N with class and boxes, N a multiple of 4, and no class with more than N / 4 of them.
        rounds: times that all photographs are dealt anew, into N / 4 mosaics each.
        seed: of the dealing.

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
    return [Mosaic(f"mosaic_{index:04}", cells) for index, cells in enumerate(dealt)]


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


class ResponseMaps(nn.Module):
    """A classifier that pools its features, without the pooling: images (B, C, H, W) to responses (B, K, h, w).

    The last layer is linear, so it can as well be applied to each place before the mean over places is taken: the mean
    of the responses is the network's logits. Shares the network's parameters, and leaves it as it is.

    Args:
        network: one of timm's EfficientNet family, such as the `network` of the embedded classifier.

    Raises:
        InputError: another network, or one with another pooling.
    """

    def __init__(self, network: nn.Module) -> None:
        from timm.models import EfficientNet  # slow to import

        super().__init__()
        if not isinstance(network, EfficientNet) or network.global_pool.pool_type != "avg":
            raise InputError(f"{type(network).__name__} is not an EfficientNet of timm that averages over places.")
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        head = self.network.classifier
        return F.conv2d(self.network.forward_features(images), head.weight[:, :, None, None], head.bias)


def mosaic_classifier(classifier: Classifier) -> Classifier:
    """The classifier for mosaics: `ResponseMaps` of its network, for pictures twice as high and wide.

    Give it to `perceptual_ball` with `multilabel=True`; methods that need logits (B, K) take the classifier itself,
    whose logits for a mosaic are the mean responses. Raises InputError as `ResponseMaps` does.
    """
    height, width = classifier.input_size
    return Classifier(
        ResponseMaps(classifier.network),
        name=classifier.name,
        class_names=classifier.class_names,
        input_size=(2 * height, 2 * width),
        mean=classifier.mean.flatten().tolist(),
        std=classifier.std.flatten().tolist(),
        interpolation=classifier.interpolation,
    )
