"""ImageNet's validation set in any of its usual layouts.

Pictures lie anywhere below a folder as `ILSVRC2012_val_*.JPEG`; classes and boxes are in the XML files of the official
download, or in Kaggle's one table.
"""

import csv
import os
import re
from functools import cache
from pathlib import Path

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.annotations import Object, read_annotation
from perceptual_lib.photographs.photographs import Photograph, stored_size

SOLUTION = "LOC_val_solution.csv"  # Kaggle's table of the validation boxes


def load_imagenet(root: Path, limit: int | None) -> list[Photograph]:
    """The first `limit` validation images, each with its XML file or row of Kaggle's table; empty if there are none."""
    images, annotations, solution = _find(root)
    names = sorted(images)[:limit]
    rows = {} if solution is None or annotations.keys() >= set(names) else _read_solution(solution)
    photographs = []
    for name in names:
        if name in annotations:
            size, objects = read_annotation(annotations[name])
        else:
            size, objects = stored_size(images[name]), rows.get(name, [])
        if not objects:
            raise InputError(
                f"{images[name]} has no boxes: put {name}.xml (from ImageNet's validation bounding boxes) "
                f"anywhere below {root}, or {SOLUTION} (from Kaggle's download) into that folder."
            )
        wnid = objects[0].name
        if wnid not in _class_indices():
            origin = annotations.get(name, solution)
            raise InputError(f"{origin} gives {name} the class {wnid!r}; it should be one of ImageNet's 1000.")
        boxes = tuple(each.box for each in objects if each.name == wnid)
        photographs.append(Photograph(name, images[name], _class_indices()[wnid], boxes, size))
    return photographs


def _find(root: Path) -> tuple[dict[str, Path], dict[str, Path], Path | None]:
    """In one walk: images by stem, XML files by stem, Kaggle's table."""
    found, solution, seen = {".JPEG": {}, ".xml": {}}, root.resolve().parent / SOLUTION, set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        # Large data often lies behind links; one that leads back ends here. The 1.3 million training images
        # and the test images are left out.
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(set(subfolders) - {"train", "test"})
        for name in names:
            if match := re.fullmatch(r"(ILSVRC2012_val_\d+)(\.JPEG|\.xml)", name):
                found[match[2]][match[1]] = Path(folder, name)
            elif name == SOLUTION:
                solution = Path(folder, name)
    return found[".JPEG"], found[".xml"], solution if solution.is_file() else None


def _read_solution(path: Path) -> dict[str, list[Object]]:
    """Objects by image, from ImageId and PredictionString, "id xmin ymin xmax ymax id ..."."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = {row["ImageId"]: iter(row["PredictionString"].split()) for row in csv.DictReader(file)}
        return {
            name: [Object(wnid, tuple(map(float, box))) for wnid, *box in zip(*[words] * 5, strict=True)]
            for name, words in rows.items()
        }
    except (KeyError, AttributeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not Kaggle's table of boxes ({error}); restore the original.") from error


@cache
def _class_indices() -> dict[str, int]:
    """WordNet id -> class index 0..999."""
    from timm.data import ImageNetInfo  # slow to import, and needed for ImageNet only

    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
