"""VOC 2007's test set for the pointing game (Sec. 4.4).

The pictures come from a folder in the layout of the download, which is torchvision's too:

    VOCdevkit/VOC2007/ImageSets/Main/test.txt    names of the pictures
    VOCdevkit/VOC2007/JPEGImages/000001.jpg
    VOCdevkit/VOC2007/Annotations/000001.xml     objects: class, box, a flag

"Difficult" is said of two things. VOC flags objects as difficult; a class of which all objects are flagged is no
question of the game. The paper's difficult subset are questions of another kind, here called hard: small objects, with
another class in the picture.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from xml.etree import ElementTree

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.vgg16_voc import VOC_CLASSES
from perceptual_lib.evaluation.pointing.protocol import Question, is_small
from perceptual_lib.photographs.photographs import Box, Photograph, PictureFile, Source

ADDRESS = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar"
HARD_PAIRS = "torchray/benchmark/pointing_game_ebp_voc07_difficult.txt"  # in the PyPI package torchray

Pair = tuple[str, int]
"""Name of a picture and index of a class in VOC_CLASSES."""


@dataclass(frozen=True)
class Object:
    """An object in a picture.

    target: index in VOC_CLASSES
    box: (left, top, right, bottom) in inclusive pixels from 0; VOC's own count from 1
    difficult: VOC's flag
    """

    target: int
    box: Box
    difficult: bool


@dataclass(frozen=True)
class Scene(PictureFile):
    """A picture file and all its objects.

    size: (width, height) in pixels
    hard: the classes for which its question belongs to the difficult subset
    """

    size: tuple[int, int]
    objects: tuple[Object, ...]
    hard: frozenset[int] = frozenset()

    @property
    def upright(self) -> bool:
        """False: boxes refer to the picture as stored."""
        return False

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those of the game, in the order of classes."""
        return tuple(Question(pair.target, pair.boxes, pair.target in self.hard) for pair in self.pairs)

    @property
    def pairs(self) -> list[Photograph]:
        """The picture once for each class with an object that is not flagged, in the order of classes.

        The boxes are those of all objects of the class, flagged ones too.
        """
        targets = sorted({each.target for each in self.objects if not each.difficult})
        return [Photograph(self.name, self.path, target, self.boxes(target), self.size) for target in targets]

    def boxes(self, target: int) -> tuple[Box, ...]:
        return tuple(each.box for each in self.objects if each.target == target)


def load_voc(root: Source, hard_pairs: set[Pair] | None = None) -> list[Scene]:
    """The pictures of VOC 2007's test set, in the order of its list; the files of pictures are not yet opened.

    Args:
        root: the folder VOC2007, or one that it lies in directly or below VOCdevkit, such as torchvision's.
        hard_pairs: the difficult subset; None for the published one where torchray is installed, which has it, and
            else for the one that is computed.

    Raises:
        InputError: no list, a picture or annotation that is missing, an annotation that cannot be read.
    """
    folder = _test_set(Path(root))
    names = (folder / "ImageSets/Main/test.txt").read_text("utf-8").split()
    if not names:
        raise InputError(f"{folder}/ImageSets/Main/test.txt names no picture; unpack {ADDRESS} again.")
    scenes = [_read_scene(folder, name) for name in names]
    if hard_pairs is None:
        hard_pairs = published_hard_pairs() if has_published_list() else computed_hard_pairs(scenes)
    return [
        replace(scene, hard=frozenset(pair.target for pair in scene.pairs if (scene.name, pair.target) in hard_pairs))
        for scene in scenes
    ]


def has_published_list() -> bool:
    """Whether the difficult subset is at hand as it was published."""
    return any(distributions(name="torchray"))


def _test_set(root: Path) -> Path:
    for folder in (root, root / "VOC2007", root / "VOCdevkit/VOC2007"):
        if (folder / "ImageSets/Main/test.txt").is_file():
            return folder
    raise InputError(
        f"{root} has no VOCdevkit/VOC2007/ImageSets/Main/test.txt: download {ADDRESS} and unpack it into that folder."
    )


def _read_scene(folder: Path, name: str) -> Scene:
    picture, annotation = folder / f"JPEGImages/{name}.jpg", folder / f"Annotations/{name}.xml"
    for path in (picture, annotation):
        if not path.is_file():
            raise InputError(f"{path} is missing; unpack {ADDRESS} again.")
    try:
        root = ElementTree.parse(annotation).getroot()
        size = int(root.findtext("size/width")), int(root.findtext("size/height"))
        return Scene(name, picture, size, tuple(_read_object(item) for item in root.findall("object")))
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise InputError(f"{annotation} is not an annotation of VOC ({error}); restore the original.") from error


def _read_object(item: ElementTree.Element) -> Object:
    box = tuple(float(item.findtext(f"bndbox/{edge}")) - 1 for edge in ("xmin", "ymin", "xmax", "ymax"))
    return Object(VOC_CLASSES.index(item.findtext("name")), box, item.findtext("difficult") == "1")


def published_hard_pairs(path: Source | None = None) -> set[Pair]:
    """The difficult subset as Zhang et al. (2016) published it and TorchRay uses it.

    Args:
        path: a text file with a line for each picture: its name and a 0 or 1 for each of the VOC_CLASSES. None for
            the file in the installed package torchray, whose licence (CC BY-NC) keeps it out of this one.

    Raises:
        InputError: no such file or package, or a file of another kind.
    """
    if path is None:
        try:
            path = distribution("torchray").locate_file(HARD_PAIRS)
        except PackageNotFoundError:
            raise InputError(
                "the published list of difficult pairs comes with torchray: pip install torchray, or give its path."
            ) from None
    if not os.path.isfile(path):
        raise InputError(f"there is no list of difficult pairs {path}; give the path of TorchRay's {HARD_PAIRS}.")
    rows = [line.split() for line in Path(path).read_text("utf-8", errors="replace").splitlines()]
    if not rows or not all(len(row) == 1 + len(VOC_CLASSES) and {"0", "1"}.issuperset(row[1:]) for row in rows):
        raise InputError(f"{path} is no list of difficult pairs: a line is a name and {len(VOC_CLASSES)} times 0 or 1.")
    return {(name, target) for name, *flags in rows for target, flag in enumerate(flags) if flag == "1"}


def computed_hard_pairs(scenes: Iterable[Scene]) -> set[Pair]:
    """The difficult subset by its definition, where the published list is not at hand.

    The boxes of the class cover less than a quarter of the picture, and an object of another class is in it. Boxes
    that overlap are counted once, and flagged objects like others, which the definition leaves open.
    """
    return {
        (scene.name, pair.target)
        for scene in scenes
        for pair in scene.pairs
        if is_small(pair) and any(each.target != pair.target for each in scene.objects)
    }
