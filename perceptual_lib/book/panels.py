"""Figures of pictures: photographs and maps side by side, with boxes; and the overlay that the command line writes.

Pictures and maps are arrays, or tensors on the CPU.
"""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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


def image_row(images: Sequence[ArrayLike], titles: Sequence[str]) -> Figure:
    """Pictures (H, W, 3) and maps (H, W) side by side (Fig. 2)."""
    return image_grid([images], titles)


def image_grid(rows: Sequence[Sequence[ArrayLike]], titles: Sequence[str], row_titles: Sequence[str] = ()) -> Figure:
    """Pictures (H, W, 3) and maps (H, W) in rows, each map in its own range of colours, up to its 99.5 % quantile."""
    count = len(rows[0])
    width = 9 / max(count, 3)
    size = width * count, (width + 0.12) * len(rows)
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False, layout="constrained")
    for panel, image in zip(axes.flat, (image for row in rows for image in row), strict=True):
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


def localization(pictures: ArrayLike, maps: ArrayLike, alpha: float, titles: Sequence[str]) -> Figure:
    """Fig. 1: original, size of the perturbation, dominant component and its box; one row a picture.

    Args:
        pictures: (B, H, W, 3) in [0, 1].
        maps: (B, H, W).
        alpha: threshold of the component, a share of the map's range.
        titles: one for each row.
    """
    pictures, maps = np.asarray(pictures), np.asarray(maps)
    components = [dominant_component(saliency, alpha) for saliency in maps]
    rows = [
        [picture, saliency, _darken(picture, ~mask)]
        for picture, saliency, (mask, _) in zip(pictures, maps, components, strict=True)
    ]
    figure = image_grid(rows, ["original", "size of the perturbation", "dominant component and its box"], titles)
    for panel, (_, box) in zip(figure.axes[2::3], components, strict=True):
        _draw_boxes(panel, [box] if box else [], FOUND_BOX)
    return figure


def comparison(
    pictures: ArrayLike, columns: Mapping[str, ArrayLike], boxes: Sequence[Sequence[Box]], across: int = 1
) -> Figure:
    """Fig. 4 and S1: each picture with its boxes, then its maps.

    Args:
        pictures: (B, H, W, 3) in [0, 1].
        columns: title -> maps (B, H, W).
        boxes: for each picture, in pixels of the maps.
        across: pictures in one row of the figure.
    """
    panels = [[picture, *(maps[index] for maps in columns.values())] for index, picture in enumerate(pictures)]
    blank = [np.ones((1, 1, 3))] * (1 + len(columns))
    panels += [blank] * (-len(panels) % across)
    rows = [sum(panels[start : start + across], []) for start in range(0, len(panels), across)]
    figure = image_grid(rows, ["original", *columns] * across)
    for own, (first, *others) in zip(boxes, np.array(figure.axes).reshape(len(panels), -1), strict=False):
        _draw_boxes(first, own, TRUE_BOX)
        for panel in others:
            _draw_boxes(panel, own, TRUE_BOX, linewidth=0.6)  # not to hide the maps
    return figure


def threshold_steps(
    picture: ArrayLike, steps: Mapping[str, tuple[ArrayLike | None, Box | None]], true: Sequence[Box]
) -> Figure:
    """The protocol of weak localization on one photograph: what is kept at each step, and the box around it.

    Args:
        picture: (H, W, 3) in [0, 1].
        steps: title -> map (H, W), mask (H, W) bool or None for the picture itself, and the box found or None.
        true: boxes of the object.
    """
    picture = np.asarray(picture)
    images = [picture if image is None else np.asarray(image) for image, _ in steps.values()]
    images = [_darken(picture, ~image) if image.dtype == bool else image for image in images]
    figure = image_grid([images], list(steps))
    for panel, (_, box) in zip(figure.axes, steps.values(), strict=True):
        _draw_boxes(panel, true, TRUE_BOX)
        _draw_boxes(panel, [box] if box else [], FOUND_BOX)
    return figure


def pointing(
    picture: ArrayLike, maps: ArrayLike, points: ArrayLike, boxes: Sequence[Sequence[Box]], titles: Sequence[str]
) -> Figure:
    """The pointing game on one scene: for each question the map over the picture, its maximum, and the true boxes.

    Args:
        picture: (H, W, 3) in [0, 1].
        maps: (Q, h, w), drawn at the picture's size.
        points: (Q, 2) columns and rows of the maxima, in pixels of the picture.
        boxes: for each question those of its class.
        titles: Q of them.
    """
    scene = Image.fromarray(np.uint8(255 * np.asarray(picture)))
    figure = image_grid([[np.asarray(overlay(scene, np.asarray(each))) for each in maps]], titles)
    for panel, (column, row), of_class in zip(figure.axes, np.asarray(points), boxes, strict=True):
        _draw_boxes(panel, of_class, TRUE_BOX)
        panel.plot(column, row, "+", color="white", markersize=15, markeredgewidth=4)
        panel.plot(column, row, "+", color="black", markersize=13, markeredgewidth=1.6)
    return figure


def _darken(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3), dark where the mask (H, W) is true."""
    return picture * np.where(where, 0.25, 1.0)[..., None]


def _draw_boxes(axes: plt.Axes, boxes: Iterable[Box], colour: str, linewidth: float = 1.6) -> None:
    for left, top, right, bottom in boxes:  # inclusive pixels, whose middles have whole coordinates
        size = right - left + 1, bottom - top + 1
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), *size, fill=False, edgecolor=colour, linewidth=linewidth))
