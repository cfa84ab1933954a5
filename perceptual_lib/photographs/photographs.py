"""Photographs: a picture, its ImageNet class and the boxes around the objects of that class.

`open_picture` opens one file as a user would expect to see it; `load_photographs` finds them: the twenty
embedded ones, ImageNet's validation set in any of its usual layouts, a folder, or files by name.

Boxes are (left, top, right, bottom) in pixels counted from 0, both ends inside the box, as in ImageNet's
annotations: a box that fills a picture of width 512 goes from 0 to 511 and is right - left + 1 = 512 wide.

Boxes refer to the pixels as stored. A few of ImageNet's pictures carry an EXIF orientation that neither their
boxes nor the networks' training followed: a photograph with boxes opens as stored, any other picture upright.
"""

import csv
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from perceptual_lib.core.errors import InputError

Box = tuple[float, float, float, float]
Source = str | os.PathLike

MAX_PIXELS = 100_000_000  # no photograph is larger, a decompression bomb is
SOLUTION = "LOC_val_solution.csv"  # Kaggle's table of the validation boxes


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of its own. It can be given wherever a path can.

    name: its identity in tables, the file's stem
    """

    name: str
    path: Path

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """What the picture is made of: its one file."""
        return (self.path,)

    def open(self) -> Image.Image:
        """The picture in RGB; raises InputError as `open_picture` does."""
        return open_picture(self)


@dataclass(frozen=True)
class Photograph(PictureFile):
    """A picture file and what is known about it.

    target: ImageNet class index in 0..999, None when unknown
    boxes: around every object of that class, in pixels of the frame `size`; see the module's documentation
    size: (width, height) of the stored picture, the frame of the boxes; required with boxes (else InputError)
    """

    target: int | None = None
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.boxes and self.size is None:
            raise InputError(f"{self.name} has boxes but no size: give the (width, height) they refer to.")

    @property
    def upright(self) -> bool:
        """Whether it is opened upright, and not as stored."""
        return not self.boxes

    def scaled_boxes(self, height: int, width: int) -> list[Box]:
        """The boxes, as floats, in the frame of the picture warped to height x width; empty without boxes.

        What is scaled are edges, and the right edge of an inclusive box is at right + 1: a box that fills the
        picture fills the warped one.
        """
        if not self.boxes:
            return []
        x, y = width / self.size[0], height / self.size[1]
        return [(lt * x, tp * y, (rt + 1) * x - 1, (bt + 1) * y - 1) for lt, tp, rt, bt in self.boxes]

    def box_mask(self, height: int, width: int) -> np.ndarray:
        """(height, width) bool: the pixels of the warped picture whose centre lies inside a box."""
        return box_mask(self.scaled_boxes(height, width), height, width)


def box_mask(boxes: Iterable[Box], height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels whose centre lies inside one of the boxes, which are of that frame."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    mask = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        mask |= (top <= rows) & (rows < bottom + 1) & (left <= columns) & (columns < right + 1)
    return mask


def open_picture(source: Source | Image.Image) -> Image.Image:
    """A picture file (or PIL image) as 8-bit RGB: upright, transparency over white, the first frame.

    A Photograph with boxes, or whatever else has an `upright` that is False, comes as stored. A given PIL image stays
    as it is. Raises InputError for a missing, empty, damaged or non-picture file, a folder, no pixels or more than
    MAX_PIXELS.
    """
    with _opened(source) as image:
        picture = _to_rgb(ImageOps.exif_transpose(image) if getattr(source, "upright", True) else image)
    picture.info.clear()  # its orientation above all: whoever opens the result again must not follow it
    return picture


def load_photographs(source: Source | Iterable[Source] | None = None, *, limit: int | None = None) -> list[Photograph]:
    """The first `limit` (None: all) photographs of a source, in order of their names.

    None
        The twenty embedded photographs, with classes and hand-drawn boxes.
    ImageNet
        A folder with `ILSVRC2012_val_*.JPEG` anywhere below it, with classes and boxes from the XML files of the
        official download or from Kaggle's `LOC_val_solution.csv`, below or next to it.
    Another folder
        The pictures directly in it, without classes or boxes.
    A file, or files
        Those pictures, in the order given; a Photograph among them stays as it is.

    Raises InputError for a limit below 1, and where something is missing or cannot be read.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give a positive number of photographs, or None for all.")
    if source is None:
        return _embedded()[:limit]
    if not isinstance(source, (str, os.PathLike)):
        return [_plain(file) for file in islice(source, limit)]
    if not os.path.isdir(source):
        return [_plain(source)]
    return _imagenet(Path(source), limit) or _folder(Path(source))[:limit]


@contextmanager
def _opened(source: Source | Image.Image) -> Iterator[Image.Image]:
    """A picture, not yet decoded. Whatever Pillow raises in the block becomes one clear sentence."""
    given = isinstance(source, Image.Image)
    name = "the picture" if given else os.fspath(source)
    if not given and os.path.isdir(name):
        raise InputError(f"{name} is a folder; give a picture file.")
    if not given and not os.path.exists(name):
        raise InputError(f"{name} does not exist; give the path of a picture file.")
    if not given and os.path.getsize(name) == 0:
        raise InputError(f"{name} is an empty file; give a picture file.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of sizes below our limit, of damaged metadata
            with nullcontext(source) if given else Image.open(name) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if 0 in image.size:
                    raise ValueError("it has no pixels")
                yield image
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a picture that Pillow can read; give a JPEG or PNG file.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has more than {MAX_PIXELS:,} pixels; give a smaller one.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        raise InputError(f"{name} cannot be decoded ({error}); give an intact picture.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale to 0..255 (Pillow's own conversion clips it to white).

    White is the smallest of the mode's usual white values that is not exceeded, or else the largest value.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)  # (H, W)
    whites = {"I": (65535, 2**31 - 1), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    white = min((white for white in whites if white >= values.max()), default=values.max())
    return Image.fromarray(np.rint(values.clip(0) / white * 255).astype(np.uint8))


def _embedded() -> list[Photograph]:
    """Twenty ImageNet pictures from the PyPI package foolbox, found without its slow import."""
    try:
        folder = Path(distribution("foolbox").locate_file("foolbox/data"))
    except PackageNotFoundError:
        raise InputError("The embedded photographs need `pip install foolbox`; or give your own.") from None
    boxes = defaultdict(tuple)
    for row in csv.DictReader(files(__package__).joinpath("boxes.csv").read_text("utf-8").splitlines()):
        boxes[row["photograph"]] += (tuple(float(row[edge]) for edge in ("left", "top", "right", "bottom")),)
    photographs = []
    for path in sorted(folder.glob("imagenet_*_*.jpg")):
        name, target = path.stem.rsplit("_", 1)  # imagenet_17_22.jpg: photograph 17, class 22
        photographs.append(Photograph(name, path, int(target), boxes[name], _stored_size(path)))
    if not photographs:
        raise InputError(f"{folder} has no imagenet_*.jpg; reinstall foolbox, or give your own pictures.")
    return photographs


def _plain(source: Source) -> Photograph:
    if isinstance(source, Photograph):
        return source
    if not os.path.isfile(source):
        raise InputError(f"{os.fspath(source)} is not an existing file; give the paths of pictures.")
    return Photograph(Path(source).stem, Path(source))


def _folder(folder: Path) -> list[Photograph]:
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    visible = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    photographs = [_plain(path) for path in visible if path.suffix.lower() in suffixes]
    if not photographs:
        raise InputError(f"{folder} has no pictures; give a folder with pictures or with ImageNet.")
    return photographs


def _imagenet(root: Path, limit: int | None) -> list[Photograph]:
    """Validation images, each with its XML file or row of Kaggle's table; empty if there are none."""
    images, annotations, solution = _find_imagenet(root)
    names = sorted(images)[:limit]
    rows = {} if solution is None or annotations.keys() >= set(names) else _read_solution(solution)
    photographs = []
    for name in names:
        if name in annotations:
            objects, size = _read_annotation(annotations[name])
        elif rows.get(name):
            objects, size = rows[name], _stored_size(images[name])
        else:
            raise InputError(
                f"{images[name]} has no boxes: put {name}.xml (from ImageNet's validation bounding boxes) "
                f"anywhere below {root}, or {SOLUTION} (from Kaggle's download) into that folder."
            )
        wnid = objects[0][0]
        if wnid not in _class_indices():
            origin = annotations.get(name, solution)
            raise InputError(f"{origin} gives {name} the class {wnid!r}; it should be one of ImageNet's 1000.")
        boxes = tuple(box for other, box in objects if other == wnid)
        photographs.append(Photograph(name, images[name], _class_indices()[wnid], boxes, size))
    return photographs


def _find_imagenet(root: Path) -> tuple[dict[str, Path], dict[str, Path], Path | None]:
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


def _read_annotation(path: Path) -> tuple[list[tuple[str, Box]], tuple[int, int]]:
    """[(class id, box), ...] and the size (width, height) from one of ImageNet's XML files."""
    edges = [f"bndbox/{edge}" for edge in ("xmin", "ymin", "xmax", "ymax")]
    try:
        root = ElementTree.parse(path).getroot()
        size = int(root.findtext("size/width")), int(root.findtext("size/height"))
        objects = [
            (item.findtext("name"), tuple(float(item.findtext(e)) for e in edges)) for item in root.iter("object")
        ]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not an ImageNet annotation ({error}); restore the original.") from error
    if not objects or min(size) < 1:
        raise InputError(f"{path} has no boxes or an empty frame; restore the original.")
    return objects, size


def _read_solution(path: Path) -> dict[str, list[tuple[str, Box]]]:
    """[(class id, box), ...] by image, from ImageId and PredictionString, "id xmin ymin xmax ymax id ..."."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = {row["ImageId"]: iter(row["PredictionString"].split()) for row in csv.DictReader(file)}
        return {
            name: [(wnid, tuple(map(float, box))) for wnid, *box in zip(*[words] * 5, strict=True)]
            for name, words in rows.items()
        }
    except (KeyError, AttributeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not Kaggle's table of boxes ({error}); restore the original.") from error


def _stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header, before any EXIF orientation."""
    with _opened(path) as image:
        return image.size


@cache
def _class_indices() -> dict[str, int]:
    """WordNet id -> class index 0..999."""
    from timm.data import ImageNetInfo  # slow to import, and needed for ImageNet only

    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
