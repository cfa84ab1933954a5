"""ImageNet's validation set in any of its usual layouts.

Pictures lie anywhere below a folder as `ILSVRC2012_val_*.JPEG`; classes and boxes are in the XML files of the official
download, or in Kaggle's one table.
"""

import csv
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.boxes import Box
from perceptual_lib.photographs.photographs import Photograph, stored_size

SOLUTION = "LOC_val_solution.csv"  # Kaggle's table of the validation boxes


class Object(NamedTuple):
    """An object in a picture, as an annotation file describes it."""

    name: str  # the name of its class
    box: Box  # ImageNet counts pixels from 0, VOC from 1
    difficult: bool = False  # VOC's flag


def read_annotation(path: Path) -> tuple[tuple[int, int], list[Object]]:
    """The (width, height) of a picture and its objects, from an XML file in VOC's format, which is ImageNet's too.

    Raises InputError for a file in another format.
    """
    from torchvision.datasets import VOCDetection  # slow to import, and needed for these two data sets only

    try:
        content = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        size = int(content["size"]["width"]), int(content["size"]["height"])
        if min(size) < 1:
            raise ValueError("an empty frame")
        objects = []
        for each in content["object"]:
            box = tuple(float(each["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax"))
            objects.append(Object(each["name"], box, each.get("difficult") == "1"))
    except (OSError, ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not an annotation of a picture ({type(error).__name__}: {error}); restore the original."
        ) from error
    return size, objects


def load_imagenet(root: Path, limit: int | None) -> list[Photograph]:
    """The first `limit` validation images, each with its XML file or row of Kaggle's table; empty if there are none."""
    found = _find(root)
    names = sorted(name.removesuffix(".JPEG") for name in found if name.endswith(".JPEG"))[:limit]
    in_table = SOLUTION in found and any(f"{name}.xml" not in found for name in names)
    rows = _read_solution(found[SOLUTION]) if in_table else {}
    photographs = []
    for name in names:
        image, annotation = found[f"{name}.JPEG"], found.get(f"{name}.xml")
        size, objects = read_annotation(annotation) if annotation else (stored_size(image), rows.get(name, []))
        if not objects:
            raise InputError(
                f"{image} has no boxes: put {name}.xml (from ImageNet's validation bounding boxes) "
                f"anywhere below {root}, or {SOLUTION} (from Kaggle's download) into that folder."
            )
        wnid = objects[0].name
        if wnid not in _class_indices():
            origin = annotation or found[SOLUTION]
            raise InputError(f"{origin} gives {name} the class {wnid!r}; it should be one of ImageNet's 1000.")
        boxes = tuple(each.box for each in objects if each.name == wnid)
        photographs.append(Photograph(name, image, _class_indices()[wnid], boxes, size))
    return photographs


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with the names of its files.

    The 1.3 million training images and the test images are left out. Links are followed, as large data often lies
    behind them, but not back to a folder that was visited before.
    """
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(set(subfolders) - {"train", "test"})
        yield folder, names


def _find(root: Path) -> dict[str, Path]:
    """Images, XML files and Kaggle's table, which may also lie beside the folder, by file name; found in one walk."""
    beside = root.resolve().parent / SOLUTION
    found = {SOLUTION: beside} if beside.is_file() else {}
    for folder, names in walk(root):
        wanted = (name for name in names if name == SOLUTION or re.fullmatch(r"ILSVRC2012_val_\d+\.(JPEG|xml)", name))
        found |= {name: Path(folder, name) for name in wanted}
    return found


def _read_solution(path: Path) -> dict[str, list[Object]]:
    """Objects by image, from the columns ImageId and PredictionString, "id xmin ymin xmax ymax id ..."."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = {row["ImageId"]: iter(row["PredictionString"].split()) for row in csv.DictReader(file)}
        return {
            name: [Object(wnid, tuple(map(float, box))) for wnid, *box in zip(*[words] * 5, strict=True)]
            for name, words in rows.items()
        }
    except (OSError, KeyError, AttributeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not Kaggle's table of boxes ({error}); restore the original.") from error


@cache
def _class_indices() -> dict[str, int]:
    """WordNet id -> class index 0..999."""
    from timm.data import ImageNetInfo  # slow to import, and needed for ImageNet only

    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
