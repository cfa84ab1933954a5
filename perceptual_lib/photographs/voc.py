"""VOC 2007's test set for the pointing game (Sec. 4.4), in the layout of the download, which is torchvision's too.

"Difficult" means two things. VOC flags objects as difficult, and the game asks no question about a class whose objects
are all flagged. The paper's difficult subset is of questions instead, here called hard: those about small objects, with
another class in the picture.
"""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from itertools import accumulate
from pathlib import Path

from perceptual_lib.core.errors import InputError
from perceptual_lib.networks.pictures import Source
from perceptual_lib.networks.vgg16_voc import VOC_CLASSES
from perceptual_lib.photographs.boxes import Question, box_array, is_small
from perceptual_lib.photographs.imagenet import read_annotation
from perceptual_lib.photographs.photographs import Photograph

ADDRESS = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar"
HARD_PAIRS = "torchray/benchmark/pointing_game_ebp_voc07_difficult.txt"  # in the PyPI package torchray


@dataclass(frozen=True)
class Scene(Photograph):
    """A photograph of several objects, and the questions that are asked about it."""

    questions: tuple[Question, ...] = ()  # those of the game, in the order of classes
    before: int = 0  # number of classes in all pictures before it, also of those that no question asks for
    upright = False  # boxes refer to the picture as stored

    def __post_init__(self) -> None:
        for question in self.questions:
            box_array(question.boxes, self.size, self.name)


def load_voc(root: Source) -> list[Scene]:
    """The pictures of VOC 2007's test set, in the order of its list; not yet opened.

    A question has the boxes of all objects of its class, also flagged ones. The published list says whether it is hard,
    if that is installed, else the list's definition: the boxes cover less than a quarter of the picture, overlaps
    counted once, and an object of another class is in the picture, flagged or not, which the definition leaves open.

    `root` is the folder VOC2007, or one that contains it, directly or in VOCdevkit. Raises InputError for a list,
    picture or annotation that is missing or cannot be read, and for a box that `box_array` refuses.
    """
    folders = [Path(root), Path(root, "VOC2007"), Path(root, "VOCdevkit/VOC2007")]
    listed = next(filter(Path.is_file, (folder / "ImageSets/Main/test.txt" for folder in folders)), None)
    if listed is None:
        raise InputError(
            f"{root} has no VOCdevkit/VOC2007/ImageSets/Main/test.txt: download {ADDRESS} and unpack it into that "
            "folder."
        )
    names: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        names = [*dict.fromkeys(listed.read_text("utf-8").split())]  # a picture counts once
    if not names:
        raise InputError(f"{listed} names no picture; unpack {ADDRESS} again.")
    hard_pairs = load_hard_pairs()
    scenes, classes = zip(*(_read_scene(listed.parents[2], name, hard_pairs) for name in names), strict=True)
    return [replace(scene, before=before) for scene, before in zip(scenes, accumulate((0, *classes)), strict=False)]


def load_hard_pairs() -> set[tuple[str, int]] | None:
    """The difficult subset as Zhang et al. (2016) published it: pairs of a picture's name and a class's index.

    It is a file of the package torchray, whose licence (CC BY-NC) keeps it out of this one; None without torchray.
    """
    try:
        path = Path(distribution("torchray").locate_file(HARD_PAIRS))
    except PackageNotFoundError:
        return None
    rows = (line.split() for line in path.read_text("utf-8").splitlines())
    return {(name, target) for name, *flags in rows for target, flag in enumerate(flags) if flag == "1"}


def _read_scene(folder: Path, name: str, hard_pairs: set[tuple[str, int]] | None) -> tuple[Scene, int]:
    """A scene, and the number of classes in it, also of those that no question asks for."""
    picture, annotation = folder / f"JPEGImages/{name}.jpg", folder / f"Annotations/{name}.xml"
    for path in (picture, annotation):
        if not path.is_file():
            raise InputError(f"{path} is missing; unpack {ADDRESS} again.")
    size, objects = read_annotation(annotation)
    boxes, asked = defaultdict(tuple), set()
    for each in objects:
        if each.name not in VOC_CLASSES:
            raise InputError(f"{annotation} has the class {each.name!r}, which is none of VOC's; restore the original.")
        target = VOC_CLASSES.index(each.name)
        boxes[target] += (tuple(edge - 1 for edge in each.box),)  # VOC counts pixels from 1
        if not each.difficult:
            asked.add(target)
    if hard_pairs is None:
        hard = {target for target in asked if is_small(boxes[target], size) and len(boxes) > 1}
    else:
        hard = {target for target in asked if (name, target) in hard_pairs}
    questions = (Question(target, boxes[target], target in hard) for target in sorted(asked))
    return Scene(name, picture, size=size, questions=tuple(questions)), len(boxes)
