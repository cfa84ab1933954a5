"""The XML files of VOC's form, which ImageNet's have too: the size of a picture, and the boxes of its objects."""

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.boxes import Box

EDGES = ("xmin", "ymin", "xmax", "ymax")


class Object(NamedTuple):
    """An object in a picture, as a file has it: its class, its box and VOC's flag."""

    name: str
    box: Box  # ImageNet counts pixels from 0, VOC from 1
    difficult: bool = False


def read_annotation(path: Path) -> tuple[tuple[int, int], list[Object]]:
    """The (width, height) of a picture and its objects; raises InputError for a file of another form."""
    from torchvision.datasets import VOCDetection  # slow to import, and needed for these two data sets only

    try:
        content = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        size = int(content["size"]["width"]), int(content["size"]["height"])
        if min(size) < 1:
            raise ValueError("an empty frame")
        objects = [
            Object(each["name"], tuple(float(each["bndbox"][edge]) for edge in EDGES), each.get("difficult") == "1")
            for each in content["object"]
        ]
    except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not an annotation of a picture ({type(error).__name__}: {error}); restore the original."
        ) from error
    return size, objects
