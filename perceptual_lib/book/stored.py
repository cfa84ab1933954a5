"""What a page stores of a figure: once, in the format that suits it, with its size."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

JPEG = {"optimize": True, "progressive": True}


def figure_data(figure: Figure) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """What a page stores of a figure: SVG of a drawing, JPEG of pictures, which would be heavier as SVG or PNG.

    Returns:
        Data by mime type, as IPython wants it: JPEG in base 64; and by mime type the size in pixels of the page.
    """
    figure.draw_without_rendering()  # places everything, which tells where the figure ends
    box = figure.get_tightbbox().padded(0.1)  # inches
    size = {"width": round(box.width * figure.dpi), "height": round(box.height * figure.dpi)}
    if _has_pictures(figure):
        data = b64encode(_saved(figure, format="jpeg", bbox_inches=box, pil_kwargs=JPEG)).decode()
        return {"image/jpeg": data}, {"image/jpeg": size}
    data = _saved(figure, format="svg", bbox_inches=box, metadata={"Date": None}).decode()
    return {"image/svg+xml": data}, {"image/svg+xml": size}


def _has_pictures(figure: Figure) -> bool:
    """Whether it shows photographs or their maps; a table of numbers as colours is smaller."""
    images = [image for axes in figure.axes for image in axes.images]
    return any(np.prod(image.get_array().shape[:2]) > 64 * 64 for image in images)


def _saved(figure: Figure, **options: Any) -> bytes:
    file = BytesIO()
    figure.savefig(file, **options)
    return file.getvalue()
