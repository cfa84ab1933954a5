"""What a browser reads of a player: the chunks of its arrays and pictures."""

import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from perceptual_lib.book.explorer.widget import Widget

METHODS = ["gradient", "no_perceptual", "perceptual", "perceptual_guided"]
STEP = 6272  # pixels: eight steps
SIDE = 224
CODED = 0.05  # what the coding of a picture may change, of 1: these are noise, the worst that there is


def unpacked(head: dict, data: bytes) -> np.ndarray:
    """An array as the browser reads it of a chunk, in its own units."""
    low, high = head["low"], head["high"]
    return low + np.frombuffer(zlib.decompress(data), "<u2").reshape(head["shape"]) / 65535 * (high - low)


def picture(widget: Widget, key: str) -> np.ndarray:
    """A picture (H, W, 3) in [0, 1] as the browser reads it."""
    return np.asarray(Image.open(BytesIO(widget.chunk(key)[1])).convert("RGB")) / 255


def tile(sheet: np.ndarray, index: int, count: int) -> np.ndarray:
    columns = int(np.ceil(np.sqrt(count)))
    row, column = divmod(index, columns)
    return sheet[SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]
