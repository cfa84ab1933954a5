"""Figures of pictures: photographs and maps side by side, with boxes; and the overlay that the command line writes.

Pictures (H, W, 3) in [0, 1] and maps (H, W) are arrays, or tensors on the CPU. Boxes are in pixels of the maps.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike
from PIL import Image

from perceptual_lib.evaluation.places import dominant_component
from perceptual_lib.photographs.boxes import Box

HEAT = "inferno"
TRUE_BOX, FOUND_BOX = "#56B4E9", "#F0E442"


def overlay(picture: Image.Image, saliency: np.ndarray) -> Image.Image:
    """The map (H, W) in colours over the picture, at the picture's size: the more salient, the more colour."""
    low, high = float(saliency.min()), float(saliency.max())
    scaled = (saliency - low) / (high - low) if high > low else np.zeros_like(saliency)
    heat = Image.fromarray(np.uint8(255 * scaled)).resize(picture.size, Image.Resampling.BILINEAR)
    colours = Image.fromarray(np.uint8(255 * colormaps[HEAT](np.asarray(heat))[..., :3]))
    return Image.composite(colours, picture.convert("L").convert("RGB"), heat.point(lambda value: 40 + value * 3 // 4))


def image_grid(rows: Sequence[Sequence[ArrayLike]], titles: Sequence[str], row_titles: Sequence[str] = ()) -> Figure:
    """Pictures and maps in rows, each map in its own range of colours, up to its 99.5 % quantile."""
    count = len(rows[0])
    width = 9 / max(count, 6)
    size = width * count, (width + 0.12) * len(rows)
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False, layout="constrained")
    for panel, image in zip(axes.flat, chain(*rows), strict=True):
        # Fine maps have single bright pixels, beside which all else would be black.
        brightest = np.quantile(image, 0.995) if image.ndim == 2 else None
        panel.imshow(image, cmap=HEAT, vmax=brightest)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title)
    for panel, title in zip(axes[:, 0], row_titles, strict=False):
        panel.set_ylabel(title)
    return figure


def places_of_panels(figure: Figure, box: Bbox) -> list[list[float]]:
    """Left, top, right and bottom of each picture in a figure, in percent of the `box` that is saved.

    On a dark page the colours around the pictures are inverted, and theirs are not.
    """
    inches = figure.dpi_scale_trans.inverted()
    places = []
    for axes in figure.axes:
        if axes.images:
            own = axes.get_window_extent().transformed(inches)
            left, right = ((side - box.x0) / box.width for side in (own.x0, own.x1))
            top, bottom = ((box.y1 - side) / box.height for side in (own.y1, own.y0))
            places.append([round(100 * float(side), 2) for side in (left, top, right, bottom)])
    return places


Steps = Mapping[str, tuple[ArrayLike | None, Box | None]]
"""Title -> a map, a mask (H, W) bool of what is kept, or None for the picture itself; and the box found, or None."""


def threshold_steps(rows: Sequence[tuple[ArrayLike, Steps, Sequence[Box]]], titles: Sequence[str] = ()) -> Figure:
    """The protocol of weak localization: each row a picture, its steps and its true boxes."""
    images = [[_kept(np.asarray(picture), image) for image, _ in steps.values()] for picture, steps, _ in rows]
    figure = image_grid(images, list(rows[0][1]), titles)
    panels = iter(figure.axes)
    for _, steps, true in rows:
        for (_, box), panel in zip(steps.values(), panels, strict=False):
            _draw_boxes(panel, true, TRUE_BOX)
            _draw_boxes(panel, [box] if box else [], FOUND_BOX)
    return figure


def localization(pictures: ArrayLike, maps: ArrayLike, alpha: float, titles: Sequence[str]) -> Figure:
    """Fig. 1: original, size of the perturbation, dominant component and its box; one row for each picture.

    The component is cut at `alpha`, a share of the map's range; `titles` are those of the rows.
    """
    names = "original", "size of the\nperturbation", "dominant component\nand its box"
    pairs = zip(np.asarray(pictures), np.asarray(maps), strict=True)
    steps = ((each, ((None, None), (saliency, None), dominant_component(saliency, alpha))) for each, saliency in pairs)
    return threshold_steps([(each, dict(zip(names, own, strict=True)), ()) for each, own in steps], titles)


def _kept(picture: np.ndarray, image: ArrayLike | None) -> np.ndarray:
    """What a panel shows: for None the picture, for a mask the picture darkened outside it, for a map the map."""
    image = picture if image is None else np.asarray(image)
    return picture * np.where(image, 1.0, 0.25)[..., None] if image.dtype == bool else image


def comparison(
    pictures: ArrayLike,
    columns: Mapping[str, ArrayLike],
    boxes: Sequence[Sequence[Box]],
    across: int = 1,
    shares: ArrayLike | None = None,
) -> Figure:
    """Fig. 4 and S1: each picture with its boxes, then its maps in columns; `across` pictures in a row.

    `shares` (pictures, columns) in [0, 1] are drawn as bars at the foot of the maps.
    """
    panels = [[picture, *(maps[index] for maps in columns.values())] for index, picture in enumerate(pictures)]
    blank = [np.ones((1, 1, 3))] * (1 + len(columns))
    panels += [blank] * (-len(panels) % across)
    rows = [sum(panels[start : start + across], []) for start in range(0, len(panels), across)]
    figure = image_grid(rows, ["original", *columns] * across)
    for panel in figure.axes[len(pictures) * (1 + len(columns)) :]:  # empty panels, which only kept their place
        panel.images[0].remove()
    for own, (first, *others) in zip(boxes, np.array(figure.axes).reshape(len(panels), -1), strict=False):
        _draw_boxes(first, own, TRUE_BOX)
        for panel in others:
            _draw_boxes(panel, own, TRUE_BOX, linewidth=0.6)  # not to hide the maps
    if shares is not None:
        of_panels = chain(*((None, *own) for own in np.asarray(shares).tolist()))  # a picture has no share
        for panel, share in zip(figure.axes, of_panels, strict=False):
            for length, colour in ((1.0, "#d0d0d0"), (share, "black")) if share is not None else ():
                place = {"transform": panel.transAxes, "clip_on": False}
                panel.add_artist(Rectangle((0, -0.07), length, 0.05, color=colour, **place))
    return figure


def pointing(
    picture: ArrayLike, maps: ArrayLike, points: ArrayLike, boxes: Sequence[Sequence[Box]], titles: Sequence[str]
) -> Figure:
    """The pointing game on one scene: for each question the map over the picture, its maximum, and the true boxes.

    The maps (Q, h, w) are drawn at the picture's size. Points (Q, 2), columns and rows, and boxes are in its pixels.
    """
    scene = Image.fromarray(np.uint8(255 * np.asarray(picture)))
    figure = image_grid([[np.asarray(overlay(scene, np.asarray(each))) for each in maps]], titles)
    for panel, (column, row), of_class in zip(figure.axes, np.asarray(points), boxes, strict=True):
        _draw_boxes(panel, of_class, TRUE_BOX)
        panel.plot(column, row, "+", color="white", markersize=15, markeredgewidth=4, clip_on=False)
        panel.plot(column, row, "+", color="black", markersize=13, markeredgewidth=1.6, clip_on=False)
    return figure


def _draw_boxes(axes: plt.Axes, boxes: Iterable[Box], colour: str, linewidth: float = 1.6) -> None:
    for left, top, right, bottom in boxes:  # inclusive pixels, whose centres have whole coordinates
        size = right - left + 1, bottom - top + 1
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), *size, fill=False, edgecolor=colour, linewidth=linewidth))
