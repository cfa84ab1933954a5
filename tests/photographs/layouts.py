"""Pictures in the layouts of ImageNet's validation set and of VOC 2007."""

from pathlib import Path

from PIL import Image
from timm.data import ImageNetInfo

from perceptual_lib import load_photographs

Object = tuple[str, int, tuple]
"""Its class, VOC's flag of what is difficult, and its box as VOC writes it: counted from 1, both ends inside."""


def annotation(size: tuple[int, int], objects: list[Object]) -> str:
    parts = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    items = "".join(
        f"<object>{parts if name == 'person' else ''}<name>{name}</name><difficult>{flag}</difficult><bndbox>"
        f"<xmax>{right}</xmax><xmin>{left}</xmin><ymin>{top}</ymin><ymax>{bottom}</ymax></bndbox></object>"
        for name, flag, (left, top, right, bottom) in objects
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{items}</annotation>"


def write_imagenet(folder: Path, count: int) -> None:
    """The first embedded photographs, as ImageNet has them."""
    folder.mkdir(parents=True)
    names = ImageNetInfo().label_names()
    for number, photograph in enumerate(load_photographs(limit=count), 1):
        stem = folder / f"ILSVRC2012_val_{number:08d}"
        photograph.open().save(stem.with_suffix(".JPEG"))
        objects = [(names[photograph.target], 0, box) for box in photograph.boxes]
        stem.with_suffix(".xml").write_text(annotation(photograph.size, objects), encoding="utf-8")


def write_voc(root: Path, scenes: dict[str, tuple[Image.Image, list[Object]]]) -> Path:
    """Pictures by name, with their objects; returns the innermost folder."""
    folder = root / "VOCdevkit" / "VOC2007"
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(scenes) + "\n", encoding="utf-8")
    for name, (picture, objects) in scenes.items():
        picture.save(folder / f"JPEGImages/{name}.jpg")
        (folder / f"Annotations/{name}.xml").write_text(annotation(picture.size, objects), encoding="utf-8")
    return folder
