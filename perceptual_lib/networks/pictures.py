"""Opening one picture file as a user would expect to see it."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from perceptual_lib.core.errors import InputError, MachineError, see

Source = str | os.PathLike[str]
PictureLike = Source | BinaryIO | bytes | Image.Image | np.ndarray
_names = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90".split()
TURNS = {orientation: Image.Transpose[name] for orientation, name in enumerate(_names, 2)}
"""What makes a picture of an EXIF orientation upright."""
MAX_PIXELS = 100_000_000  # no photograph is larger, a decompression bomb is


def open_picture(source: PictureLike) -> Image.Image:
    """The first frame of a picture as 8-bit RGB, with white behind transparency. `source` is a file, an open one, its
    bytes, a PIL image (left unchanged), or an array (H, W), (H, W, 3) or (H, W, 4) of uint8, or of floats from 0 to 1.

    An EXIF orientation is followed, unless the source is a `Photograph` whose boxes refer to the pixels as stored.
    Raises InputError for a missing, empty, damaged or non-picture file, a folder, no pixels or more than MAX_PIXELS.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    elif isinstance(source, bytes):
        source = BytesIO(source)
    elif not (isinstance(source, (str, os.PathLike, Image.Image)) or hasattr(source, "read")):
        raise InputError(f"a picture is a path, a PIL image, an open file or an array, not {type(source).__name__}.")
    with opening(source) as image:
        picture = _to_rgb(_upright(image) if getattr(source, "upright", True) else image)
    picture.info.clear()  # its orientation above all: whoever opens the result again must not follow it
    return picture


def list_pictures(pictures: Any) -> Iterable[PictureLike]:
    """Pictures, also if a single one is given. Raises InputError for anything else, such as a tensor."""
    if isinstance(pictures, (str, os.PathLike, Image.Image, bytes)) or hasattr(pictures, "read"):
        return [pictures]
    if isinstance(pictures, np.ndarray) and pictures.ndim < 4:
        return [pictures]
    if type(pictures).__name__ == "Tensor" or not isinstance(pictures, Iterable):
        raise InputError(
            f"pictures are paths, PIL images, open files or arrays, not {type(pictures).__name__}; tensors are "
            "explained as they are, normalized."
        )
    return pictures


@contextmanager
def opening(source: Source | BinaryIO | Image.Image) -> Iterator[Image.Image]:
    """A picture, not yet decoded. Whatever Pillow raises in the block becomes one clear sentence."""
    name = "the picture"
    if isinstance(source, (str, os.PathLike)):
        source = name = os.fspath(source)
        if os.path.isdir(name):
            raise InputError(f"{name} is a folder; give a picture file.")
        if not os.path.exists(name):
            raise InputError(f"{name} does not exist; give the path of a picture file.")
        if os.path.getsize(name) == 0:
            raise InputError(f"{name} is an empty file; give a picture file.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # warns of sizes below our limit, and of damaged metadata
            with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if 0 in image.size:
                    raise ValueError("it has no pixels")
                yield image
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a picture that Pillow can read; give a JPEG or PNG file.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has more than {MAX_PIXELS:,} pixels; give a smaller one.") from None
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:  # the system's error number
            raise MachineError(f"{name} cannot be read ({error}){see('The machine')}.") from error
        # Pillow's decoders raise nearly anything on damaged data, also OSErrors without a number.
        raise InputError(f"{name} cannot be decoded ({error}); give an intact picture.") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its orientation says. `ImageOps.exif_transpose` also rewrites other tags: a bad one fails."""
    image.load()  # some formats are turned here, and their tag then says so
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the picture is one, but its EXIF chunk is none
        turn = None
    return image if turn is None else image.transpose(turn)


def _from_array(pixels: np.ndarray) -> Image.Image:
    if np.issubdtype(pixels.dtype, np.floating) and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.dtype != np.uint8 or (pixels.shape[2:] or (3,))[0] not in (3, 4) or pixels.ndim not in (2, 3):
        raise InputError(
            f"a picture as an array is (H, W), (H, W, 3) or (H, W, 4), of uint8 or of floats from 0 to 1, not "
            f"{pixels.dtype} {pixels.shape}."
        )
    return Image.fromarray(pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale to 0..255 (Pillow's own conversion clips it to white). White is the smallest usual white
    value of the mode that no pixel exceeds (floats: by more than resampling overshoots), or else the largest pixel."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)  # (H, W)
    if values.min() < -0.1 * values.max():  # more than resampling undershoots
        raise InputError("a picture's values begin at 0, for black, and this one has values below: add to them first.")
    whites = [2**bits - 1 for bits in (8, 10, 12, 14, 16)]  # cameras and scanners fill the lower bits
    largest = values.max()
    if image.mode == "F":
        whites = [1, *whites] if largest <= 1.1 else [white for white in whites if white <= 8 * largest]
        largest /= 1.1
    white = min((white for white in whites if white >= largest), default=values.max())
    return Image.fromarray(np.rint(values.clip(0, white) / white * 255).astype(np.uint8))
