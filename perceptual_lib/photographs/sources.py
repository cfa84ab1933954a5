"""Where photographs come from: the embedded ones, ImageNet's validation set, a folder, or files by name."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from itertools import islice
from numbers import Integral
from pathlib import Path

from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.networks.pictures import Source
from perceptual_lib.photographs.imagenet import load_imagenet
from perceptual_lib.photographs.photographs import Photograph, stored_size, unused


def load_photographs(source: Source | Iterable[Source] | None = None, *, limit: int | None = None) -> list[Photograph]:
    """The first `limit` (None: all) photographs of a source, in order of their names.

    - None: the twenty embedded photographs, with classes and hand-drawn boxes.
    - ImageNet: a folder with `ILSVRC2012_val_*.JPEG` anywhere below it, with classes and boxes from the XML files of
      the official download or from Kaggle's `LOC_val_solution.csv`, below or next to it.
    - Another folder: the pictures directly in it, without classes or boxes.
    - A file, or files: those pictures, in the order given. A Photograph among them stays as it is, but is renamed if
      its name is taken.

    Raises InputError for a limit that is no whole number above 0, and if something is missing or cannot be read.
    """
    if limit is not None and not (isinstance(limit, Integral) and limit >= 1):
        raise InputError(f"limit is {limit}; give a positive whole number of photographs, or None for all.")
    if source is None:
        return _embedded()[:limit]
    if not isinstance(source, (str, os.PathLike)):
        several = source if isinstance(source, Iterable) else [source]
        return _distinct([_plain(file) for file in islice(several, limit)])
    if not os.path.isdir(source):
        return [_plain(source)]
    return load_imagenet(Path(source), limit) or _distinct([_plain(path) for path in pictures_in(Path(source))])[:limit]


def _embedded() -> list[Photograph]:
    """Twenty ImageNet pictures from the PyPI package foolbox, found without its slow import."""
    try:
        folder = Path(distribution("foolbox").locate_file("foolbox/data"))
    except PackageNotFoundError:
        raise InputError("the embedded photographs need foolbox: pip install 'perceptual-ball[embedded]'.") from None
    boxes = defaultdict(tuple)
    for row in csv.DictReader(files(__package__).joinpath("boxes.csv").read_text("utf-8").splitlines()):
        boxes[row["photograph"]] += (tuple(float(row[edge]) for edge in ("left", "top", "right", "bottom")),)
    photographs = []
    for path in sorted(folder.glob("imagenet_*_*.jpg")):
        name, target = path.stem.rsplit("_", 1)  # imagenet_17_22.jpg: photograph 17, class 22
        photographs.append(Photograph(name, path, int(target), boxes[name], stored_size(path)))
    if not photographs:
        raise InputError(f"{folder} has no imagenet_*.jpg; reinstall foolbox, or give your own pictures.")
    return photographs


def _plain(source: Source) -> Photograph:
    if isinstance(source, Photograph):
        return source
    if not isinstance(source, (str, os.PathLike)) or not os.path.isfile(source):
        raise InputError(f"{source} is not an existing file; give the paths of pictures.")
    return Photograph(Path(source).stem, Path(source))


def _distinct(photographs: list[Photograph]) -> list[Photograph]:
    """The photographs with distinct names, which identify them in tables: cat, cat (2) for two files with one stem."""
    found: dict[str, Photograph] = {}
    for each in photographs:
        name = unused(each.name, found)
        found[name] = replace(each, name=name)
    return list(found.values())


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in a folder, in order of their names. InputError if none can be read."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder} cannot be read; give a folder that you may read.")
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    visible = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in visible if path.suffix.lower() in suffixes]
    if not pictures:
        raise InputError(f"{folder} has no pictures; give a folder with pictures or with ImageNet.")
    return pictures
