"""Opening one picture file as a user would expect to see it."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from perceptual_lib.core.errors import InputError

Source = str | os.PathLike[str]
MAX_PIXELS = 100_000_000  # no photograph is larger, a decompression bomb is


def open_picture(source: Source | Image.Image) -> Image.Image:
    """A picture file (or PIL image, which stays as it is) as 8-bit RGB: transparency over white, the first frame.

    An EXIF orientation is followed, unless the source is a `Photograph` whose boxes refer to the pixels as stored.
    Raises InputError for a missing, empty, damaged or non-picture file, a folder, no pixels or more than MAX_PIXELS.
    """
    with opening(source) as image:
        picture = _to_rgb(ImageOps.exif_transpose(image) if getattr(source, "upright", True) else image)
    picture.info.clear()  # its orientation above all: whoever opens the result again must not follow it
    return picture


@contextmanager
def opening(source: Source | Image.Image) -> Iterator[Image.Image]:
    """A picture, not yet decoded. Whatever Pillow raises in the block becomes one clear sentence."""
    if isinstance(source, Image.Image):
        given, name = source, "the picture"
    else:
        given, name = None, os.fspath(source)
        if os.path.isdir(name):
            raise InputError(f"{name} is a folder; give a picture file.")
        if not os.path.exists(name):
            raise InputError(f"{name} does not exist; give the path of a picture file.")
        if os.path.getsize(name) == 0:
            raise InputError(f"{name} is an empty file; give a picture file.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of sizes below our limit, of damaged metadata
            with Image.open(name) if given is None else nullcontext(given) as image:
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
