"""A few pictures in the layouts of ImageNet's validation set and of VOC 2007, for the profile `paper-small`."""

from pathlib import Path

from PIL import Image
from timm.data import ImageNetInfo

from perceptual_lib import load_photographs

Box = tuple[int, int, int, int]


def annotation(size: tuple[int, int], objects: list[tuple[str, Box]]) -> str:
    items = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in objects
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
        objects = [(names[photograph.target], box) for box in photograph.boxes]
        stem.with_suffix(".xml").write_text(annotation(photograph.size, objects), encoding="utf-8")


def write_voc(folder: Path, count: int) -> None:
    """As many pictures of two objects, a small one and a larger one, as VOC has them."""
    folder = folder / "VOCdevkit" / "VOC2007"
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    names = [f"{number:06d}" for number in range(1, count + 1)]
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for name, photograph in zip(names, load_photographs(limit=count), strict=True):
        photograph.open().resize((100, 80), Image.Resampling.BILINEAR).save(folder / f"JPEGImages/{name}.jpg")
        objects = [("dog", (5, 5, 30, 30)), ("person", (40, 10, 95, 75))]
        (folder / f"Annotations/{name}.xml").write_text(annotation((100, 80), objects), encoding="utf-8")
