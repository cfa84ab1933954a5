"""The book's figures, one function each, and the overlay that the command line writes.

Pictures and maps are arrays, or tensors on the CPU.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from perceptual_lib.book.stored import figure_data
from perceptual_lib.evaluation.places import dominant_component
from perceptual_lib.evaluation.statistics import Estimate

# One palette in the whole book: Okabe and Ito's, which colour-blind readers can tell apart.
PERCEPTUAL, NO_PERCEPTUAL, NEUTRAL, TRUE_BOX, FOUND_BOX = "#D55E00", "#0072B2", "#767676", "#56B4E9", "#F0E442"
SERIES = (PERCEPTUAL, "#CC79A7", NO_PERCEPTUAL, NEUTRAL, "#009E73", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")  # colours have a second sign beside them
HEAT = "inferno"
STYLE = {
    "figure.dpi": 110,  # pixels of the page, per inch
    "savefig.dpi": 220,  # twice as many, for dense screens
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks the same everywhere; text in a picture of a page cannot be selected anyway
    "svg.hashsalt": "perceptual",  # the same figure, the same file
}

Box = tuple[float, float, float, float]


def setup() -> None:
    """Draw in the book's style, and let this notebook show figures in the format that suits them."""
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    plt.rcParams.update(STYLE)
    set_matplotlib_formats()  # none of the inline backend's own, so that each figure is stored once
    get_ipython().display_formatter.mimebundle_formatter.for_type(Figure, figure_data)


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
    figure, axes = plt.subplots(
        len(rows), count, figsize=(width * count, (width + 0.12) * len(rows)), squeeze=False, layout="constrained"
    )
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            panel = axes[row, column]
            # Fine maps have single bright pixels, beside which all else would be black.
            brightest = np.quantile(image, 0.995) if image.ndim == 2 else None
            panel.imshow(image, cmap=HEAT if image.ndim == 2 else None, vmax=brightest)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            if row == 0:
                panel.set_title(titles[column])
        if row_titles:
            axes[row, 0].set_ylabel(row_titles[row])
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
        [picture, saliency, picture * (0.25 + 0.75 * mask[..., None])]
        for picture, saliency, (mask, _) in zip(pictures, maps, components, strict=True)
    ]
    figure = image_grid(rows, ["original", "size of the perturbation", "dominant component and its box"], titles)
    for index, (_, box) in enumerate(components):
        if box:
            _draw_box(figure.axes[3 * index + 2], box, FOUND_BOX)
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
    for own, axes in zip(boxes, np.array(figure.axes).reshape(len(panels), -1), strict=False):
        for box in own:
            for panel, width in zip(axes, [1.6] + [0.6] * len(columns), strict=True):  # thin, not to hide the maps
                _draw_box(panel, box, TRUE_BOX, width)
    return figure


def traces(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Quantities over the steps of the optimization: one panel for each, one curve a method.

    Args:
        curves: panel title -> method name -> values (steps + 1, images); images are drawn thin, their mean thick.
    """
    figure, panels = plt.subplots(1, len(curves), figsize=(3.3 * len(curves), 2.8), layout="constrained")
    for axes, (title, methods) in zip(np.atleast_1d(panels), curves.items(), strict=True):
        for (name, values), colour in zip(methods.items(), (NO_PERCEPTUAL, PERCEPTUAL), strict=False):
            axes.plot(values, color=colour, linewidth=0.5, alpha=0.4)
            axes.plot(values.mean(axis=1), color=colour, linewidth=2, label=name)
        axes.set(title=title, xlabel="step of L-BFGS")
    np.atleast_1d(panels)[0].legend()
    return figure


def growth(changes: Mapping[str, np.ndarray], held: int | None = None) -> Figure:
    """Relative change of each activation, layer by layer.

    Args:
        changes: name of the change -> (layers, images); the median over images is drawn, with its quartiles.
        held: the last activation that the perceptual term holds; those up to it are shaded.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    if held is not None:
        axes.axvspan(-0.5, held + 0.5, color=NEUTRAL, alpha=0.12, linewidth=0, label="held")
    for (name, values), colour in zip(changes.items(), (NO_PERCEPTUAL, PERCEPTUAL, NEUTRAL), strict=False):
        layers = np.arange(len(values))
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(layers, middle, color=colour, marker=".", label=name)
    axes.set(yscale="log", xlabel="activation, in forward order", ylabel="relative change, per that of the pixels")
    axes.legend()
    return figure


def paired_shares(first: np.ndarray, second: np.ndarray, areas: np.ndarray, labels: tuple[str, str]) -> Figure:
    """Share of each map inside the boxes: one point a photograph, ours against the other, and the boxes' area.

    Args:
        first, second, areas: (B,) in [0, 1].
        labels: names of the first (horizontal) and the second (vertical).
    """
    figure, axes = plt.subplots(figsize=(3.8, 3.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color=NEUTRAL, linewidth=0.8)
    axes.scatter(first, second, color=PERCEPTUAL, s=24, zorder=3, label="a photograph")
    axes.scatter(areas, areas, color=NEUTRAL, marker="|", s=24, label="area of its boxes")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel=f"share inside, {labels[0]}",
        ylabel=f"share inside, {labels[1]}",
    )
    axes.legend(loc="lower right")
    return figure


def threshold_steps(
    picture: ArrayLike, steps: Mapping[str, tuple[ArrayLike, Box | None]], true: Sequence[Box]
) -> Figure:
    """The protocol of weak localization on one photograph: what is kept at each step, and the box around it.

    Args:
        picture: (H, W, 3) in [0, 1].
        steps: title -> map (H, W), mask (H, W) bool or None for the picture itself, and the box found or None.
        true: boxes of the object.
    """
    shown = [picture if image is None else np.asarray(image) for image, _ in steps.values()]
    shown = [np.asarray(picture) * (0.2 + 0.8 * each[..., None]) if each.dtype == bool else each for each in shown]
    figure = image_grid([shown], list(steps))
    for panel, (_, box) in zip(figure.axes, steps.values(), strict=True):
        for each in true:
            _draw_box(panel, each, TRUE_BOX)
        if box is not None:
            _draw_box(panel, box, FOUND_BOX)
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
    picture, points = np.asarray(picture), np.asarray(points)
    scene = Image.fromarray(np.uint8(255 * picture))
    figure = image_grid([[np.asarray(overlay(scene, np.asarray(each))) for each in maps]], titles)
    for panel, (column, row), of_class in zip(figure.axes, points, boxes, strict=True):
        for box in of_class:
            _draw_box(panel, box, TRUE_BOX)
        panel.plot(column, row, "+", color="white", markersize=15, markeredgewidth=4)
        panel.plot(column, row, "+", color="black", markersize=13, markeredgewidth=1.6)
    return figure


def bands(panels: Mapping[str, Mapping[str, tuple[ArrayLike, Estimate]]], xlabel: str, ylabel: str) -> Figure:
    """Curves with their intervals, one panel beside the other (Fig. 6).

    Args:
        panels: title -> name of a curve -> its places, numbers or names, and its estimate, (K,) each; the same curves
            in each panel, eight at most.
        xlabel, ylabel: of all panels.
    """
    size = 3.0 * len(panels), 2.5 + 0.1 * max(map(len, panels.values()))  # with a legend of two names a row
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for (name, (places, estimate)), colour, dash in zip(curves.items(), SERIES, DASHES, strict=False):
            panel.fill_between(places, estimate.low, estimate.high, color=colour, alpha=0.15, linewidth=0)
            panel.plot(places, estimate.value, dash, color=colour, label=name)
            if isinstance(places[0], str):
                panel.tick_params("x", rotation=90)
        panel.set(title=title, xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def fits(axes: Mapping[str, ArrayLike]) -> Figure:
    """Seconds (circles) and memory in MB (squares) against what they grow with, and lines of least squares.

    Args:
        axes: what it is -> (K, 3): its values, seconds, bytes.
    """
    rows = -(-len(axes) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(7.8, 2.2 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for panel, (name, points) in zip(panels.flat, axes.items(), strict=False):
        x, seconds, memory = np.array(points, dtype=float).T
        sides = (panel, seconds, PERCEPTUAL, "o"), (panel.twinx(), memory / 1e6, NO_PERCEPTUAL, "s")
        for side, y, colour, marker in sides:
            side.plot(x, y, marker, color=colour, markersize=4)
            side.plot(x, np.polyval(np.polyfit(x, y, 1), x), color=colour, linewidth=0.8)
            side.set_ylim(0)
            side.tick_params("y", colors=colour)
            side.spines[["left", "right"]].set_visible(False)
        panel.set_xlabel(name)
    return figure


def forest(estimates: Mapping[str, Estimate], xlabel: str, higher_is_better: bool = False) -> Figure:
    """Differences with their intervals, one below the other.

    One that is better than 0 has the colour of the perceptual method, and one whose interval includes 0 is grey.
    """
    below, above = (NO_PERCEPTUAL, PERCEPTUAL) if higher_is_better else (PERCEPTUAL, NO_PERCEPTUAL)
    figure, axes = plt.subplots(figsize=(6.0, 0.3 * len(estimates) + 0.8), layout="constrained")
    for row, estimate in enumerate(estimates.values()):
        colour = below if estimate.high < 0 else above if estimate.low > 0 else NEUTRAL
        axes.plot([estimate.low, estimate.high], [row, row], color=colour)
        axes.plot(estimate.value, row, "o", color=colour)
    axes.axvline(0, color=NEUTRAL, linewidth=0.8)
    axes.set(yticks=range(len(estimates)), yticklabels=list(estimates), xlabel=xlabel)
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    return figure


def heat_maps(panels: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """Fig. 5: a number for every range of layers, from the first (down) to the last held (across); blue is low.

    Args:
        panels: title -> numbers by first layer (index) and last layer (columns), nan where there is no range. From 0 to
            -1 is no layer: what the paper has in the corner.
        label: what the number is.
    """
    shape = -(-len(panels) // 2), min(2, len(panels))
    size = (3.6 * shape[1] + 0.6, 3.4 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    low = min(np.nanmin(panel) for panel in panels.values())
    high = max(np.nanmax(panel) for panel in panels.values())
    for panel, (title, numbers) in zip(axes.flat, panels.items(), strict=False):
        image = panel.imshow(numbers, cmap="cividis", vmin=low, vmax=high)
        for (row, column), number in np.ndenumerate(numbers.to_numpy()):
            if len(numbers) <= 8 and np.isfinite(number):
                bright = number > (low + high) / 2
                panel.text(column, row, f"{number:.2f}", ha="center", va="center", color="black" if bright else "white")
        last = ["–" if layer < 0 else layer for layer in numbers.columns]
        panel.set(title=title, xlabel="last layer held" + " (–: none)" * ("–" in last), ylabel="first layer held")
        panel.set(xticks=range(numbers.shape[1]), xticklabels=last)
        panel.set(yticks=range(numbers.shape[0]), yticklabels=numbers.index)
    figure.colorbar(image, ax=axes, label=label, shrink=0.6)
    return figure


def cascade_grid(pictures: ArrayLike, maps: ArrayLike, stages: Sequence[str]) -> Figure:
    """Fig. 7: each picture, its map, and its maps while one more layer after the other has forgotten all.

    Args:
        pictures: (B, H, W, 3) in [0, 1].
        maps: (B, S, H, W), the first of the trained network; each has its own range of colours.
        stages: S names, "trained" and the layers' paths, which are broken at their dots.
    """
    rows = [[picture, *own] for picture, own in zip(np.asarray(pictures), np.asarray(maps), strict=True)]
    return image_grid(rows, ["picture", *(stage.replace(".", "\n") for stage in stages)])


def two_scores(table: pd.DataFrame) -> Figure:
    """Table 2 as a picture: deletion across, insertion up, with their intervals; the best are at the top left.

    The blurs of one method are joined. The names stand at the side, from the highest point to the lowest.

    Args:
        table: from `tables.insertion_deletion.insertion_deletion_table`; a row without estimates is left out.
    """
    rows = table.dropna(subset=["deletion", "insertion"])
    order = rows.insertion.map(lambda estimate: estimate.value).sort_values().index
    figure, axes = plt.subplots(figsize=(6.0, max(3.4, 0.2 * len(rows) + 0.8)), layout="constrained")
    for method, own in rows.groupby("method", sort=False):
        colour = {"perceptual": PERCEPTUAL, "no_perceptual": NO_PERCEPTUAL}.get(method, NEUTRAL)
        points = [
            (deletion.value, insertion.value) for deletion, insertion in zip(own.deletion, own.insertion, strict=True)
        ]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.2, markersize=5, zorder=3)
        for (row, line), (across, up) in zip(own.iterrows(), points, strict=True):
            axes.hlines(up, line.deletion.low, line.deletion.high, color=colour, linewidth=0.8, alpha=0.5)
            axes.vlines(across, line.insertion.low, line.insertion.high, color=colour, linewidth=0.8, alpha=0.5)
            axes.annotate(
                method if len(own) == 1 else f"{method}, sigma {row[1]:g}",
                (across, up),
                (1.03, (order.get_loc(row) + 0.5) / len(order)),
                textcoords="axes fraction",
                color=colour,
                va="center",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6, "relpos": (0, 0.5)},
            )
    axes.set(xlabel="area under the deletion curve (lower is better)")
    axes.set(ylabel="area under the insertion curve (higher is better)")
    return figure


def _draw_box(axes: plt.Axes, box: Box, colour: str, linewidth: float = 1.6) -> None:
    left, top, right, bottom = box
    axes.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left + 1,
            bottom - top + 1,
            fill=False,
            edgecolor=colour,
            linewidth=linewidth,
        )
    )
