"""The book's figures of numbers, one function each, and their style. Figures of pictures are in `panels`."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler

from perceptual_lib.book import panels as of_pictures

# Notebooks import all figures from this module.
from perceptual_lib.book.panels import comparison, image_grid, localization, pointing, threshold_steps  # noqa: F401
from perceptual_lib.evaluation.statistics import Estimate
from perceptual_lib.methods import METHODS

# One palette in the whole book: Okabe and Ito's, which colour-blind readers can tell apart.
PERCEPTUAL, NO_PERCEPTUAL, NEUTRAL = "#D55E00", "#0072B2", "#767676"
SERIES = (PERCEPTUAL, "#CC79A7", NO_PERCEPTUAL, NEUTRAL, "#009E73", "#E69F00", "#56B4E9", "#000000")
NAMED = 6  # points of `two_scores` that are named
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":", "--")  # nine for eight colours: a repeated colour gets another
STYLE = {
    "figure.dpi": 110,  # pixels of the page, per inch
    "savefig.dpi": 220,  # twice as many, for high-resolution screens
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own: the same on every machine
    "lines.linewidth": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks the same everywhere; text in a picture of a page cannot be selected anyway
    "svg.hashsalt": "perceptual",  # the same figure gives the same file
}


def setup() -> None:
    """Draw in the book's style; show figures in this notebook in the format that suits them, and methods by title."""
    from IPython import get_ipython
    from IPython.display import Markdown
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    sns.set_theme(context="paper", style="ticks", rc=STYLE)
    set_matplotlib_formats()  # none of the inline backend's own formats, so that each figure is stored once
    plt.uninstall_repl_displayhook()  # else each figure is drawn twice; the backend shows it without the hook, too
    shown = get_ipython().display_formatter
    shown.mimebundle_formatter.for_type(Figure, figure_data)
    shown.formatters["text/markdown"].for_type(Markdown, lambda markdown: in_print(markdown.data))
    shown.formatters["text/html"].for_type(Styler, lambda styler: in_print(styler.to_html()))


def in_print(text: str) -> str:
    """The text with each method's name replaced by its title, except in code."""
    words = rf"(?s)```.*?```|`[^`]*`|\b(?:{'|'.join(METHODS)})\b"
    return re.sub(words, lambda found: METHODS[found[0]].title if found[0] in METHODS else found[0], text)


def figure_data(figure: Figure) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """A figure as a page stores it: drawings as SVG, pictures as JPEG, because they would be larger as SVG or PNG.

    Returns what IPython expects: the data (JPEG in base 64) and the size in pixels of the page, each by MIME type.
    """
    for text in figure.findobj(Text):
        text.set_text(in_print(text.get_text()))
    figure.draw_without_rendering()  # computes the layout, which `get_tightbbox` needs
    figure.set_layout_engine(None)  # else saving would compute the layout again
    box = figure.get_tightbbox().padded(0.1)  # inches
    size = {"width": round(box.width * figure.dpi), "height": round(box.height * figure.dpi)}
    file = BytesIO()
    if any(axes.images for axes in figure.axes):
        pil = {"optimize": True, "progressive": True, "comment": json.dumps(of_pictures.places_of_panels(figure, box))}
        figure.savefig(file, format="jpeg", bbox_inches=box, pil_kwargs=pil)
        return {"image/jpeg": b64encode(file.getvalue()).decode()}, {"image/jpeg": size}
    figure.savefig(file, format="svg", bbox_inches=box, metadata={"Date": None})
    return {"image/svg+xml": file.getvalue().decode()}, {"image/svg+xml": size}


def traces(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Quantities over the steps of the optimization: one panel for each, with one curve for each method.

    Panel title -> method -> values (steps + 1, images); images are thin lines, their mean is a thick one.
    """
    figure, panels = plt.subplots(1, len(curves), figsize=(3.3 * len(curves), 2.8), squeeze=False, layout="constrained")
    for axes, (title, methods) in zip(panels.flat, curves.items(), strict=True):
        lines = _long_form(methods, (NO_PERCEPTUAL, PERCEPTUAL)) | {"ax": axes}
        sns.lineplot(**lines, units="column", estimator=None, legend=False, linewidth=0.5, alpha=0.4)
        sns.lineplot(**lines, errorbar=None, legend=axes is panels[0, 0], linewidth=2)
        axes.set(title=title, xlabel="step of L-BFGS", ylabel="")
    panels[0, 0].legend()
    return figure


def growth(changes: Mapping[str, np.ndarray], held: int | None = None) -> Figure:
    """Relative change of each activation: name -> (layers, images), drawn as the images' median and quartiles.

    The activations that the perceptual term holds, up to the index `held`, are shaded.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    if held is not None:
        axes.axvspan(-0.5, held + 0.5, color=NEUTRAL, alpha=0.12, linewidth=0, label="held")
    lines = _long_form(changes, (NO_PERCEPTUAL, PERCEPTUAL, NEUTRAL))
    sns.lineplot(**lines, estimator="median", errorbar=("pi", 50), marker="o", markersize=4, markeredgewidth=0, ax=axes)
    axes.set(yscale="log", xlabel="activation, in forward order", ylabel="relative change, per that of the pixels")
    axes.legend()
    return figure


def _long_form(curves: Mapping[str, np.ndarray], colours: tuple[str, ...]) -> dict[str, Any]:
    """Seaborn's arguments for curves: name -> values (rows, images), drawn over their rows in a hue of its own."""
    tables = {name: pd.DataFrame(values).rename_axis("row").reset_index() for name, values in curves.items()}
    data = pd.concat(tables, names=["name"]).reset_index("name").melt(["name", "row"], var_name="column")
    return {"data": data, "x": "row", "y": "value", "hue": "name", "palette": list(colours[: len(curves)])}


def paired_shares(first: np.ndarray, second: np.ndarray, labels: tuple[str, str]) -> Figure:
    """Share of two methods' maps that lies inside the boxes: a point for each photograph.

    All are (B,) in [0, 1]; the labels name the first (horizontal) and the second (vertical).
    """
    figure, axes = plt.subplots(figsize=(3.8, 3.6), layout="constrained")
    axes.axline((0, 0), slope=1, color=NEUTRAL, linewidth=0.8)
    sns.scatterplot(x=first, y=second, color=PERCEPTUAL, ax=axes)
    x, y = (f"share inside, {label}" for label in labels)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", xlabel=x, ylabel=y)
    return figure


Panels = Mapping[str, Mapping[str, tuple[ArrayLike, Estimate]]]
"""Panel title -> name of a curve -> its x values (K,), numbers or names, and its estimate (K,)."""


def bands(panels: Panels, xlabel: str, ylabel: str) -> Figure:
    """Curves with their intervals in panels side by side (Fig. 6), the same curves in each.

    A curve far above all others is not drawn but named, with its values: beside it the others would look alike.
    """
    far = _far_above(panels)
    size = 3.0 * len(panels), 2.5 + 0.1 * max(map(len, panels.values()))  # with a legend of two names a row
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for (name, (places, estimate)), colour, dash in zip(curves.items(), cycle(SERIES), cycle(DASHES), strict=False):
            if (title, name) == far:
                words = f"↑ {name}: {np.min(estimate.value):.2f} to {np.max(estimate.value):.2f}"
                panel.text(0.5, 1, words, color=colour, ha="center", va="top", transform=panel.transAxes)
                places, estimate = [], Estimate([], [], [], 0)  # drawn empty, for the legend
            panel.fill_between(places, estimate.low, estimate.high, color=colour, alpha=0.15, linewidth=0)
            panel.plot(places, estimate.value, dash, color=colour, label=name)
            if len(places) and isinstance(places[0], str):
                panel.tick_params("x", rotation=90)
        panel.set(title=title, xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _far_above(panels: Panels) -> tuple[str, str] | None:
    """The (panel, name) of the curve that stays above 1.5 times the maximum of all others, intervals included.

    None if there is no such curve, it is alone in its panel, or there is only one panel.
    """
    curves = {(title, name): estimate for title, own in panels.items() for name, (_, estimate) in own.items()}
    high = {key: np.max(estimate.high) for key, estimate in curves.items()}
    top = max(high, key=high.__getitem__, default=None)
    others = max((value for key, value in high.items() if key != top), default=np.inf)
    return top if top and len(panels[top[0]]) > 1 < len(panels) and np.min(curves[top].low) > 1.5 * others else None


def fits(axes: Mapping[str, ArrayLike]) -> Figure:
    """Seconds (circles) and memory in MB (squares) against what they grow with, and lines of least squares.

    Name of an axis of growth -> (K, 3): its values, seconds, bytes.
    """
    rows = -(-len(axes) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(7.8, 2.2 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for panel, (name, points) in zip(panels.flat, axes.items(), strict=False):
        x, seconds, memory = np.array(points, dtype=float).T
        sides = (panel, seconds, PERCEPTUAL, "o"), (panel.twinx(), memory / 1e6, NO_PERCEPTUAL, "s")
        for side, y, colour, marker in sides:
            dots, line = {"s": 16, "alpha": 1, "clip_on": False}, {"linewidth": 0.8}
            sns.regplot(x=x, y=y, ci=None, color=colour, marker=marker, scatter_kws=dots, line_kws=line, ax=side)
            side.set_ylim(0)
            side.tick_params("y", colors=colour)
            side.spines[["left", "right"]].set_visible(False)
        panel.set_xlabel(name)
    return figure


def forest(panels: Mapping[str, Mapping[str, Estimate]], xlabel: str, higher_is_better: bool = False) -> Figure:
    """Differences with their intervals, one below the other, on one axis; a panel for each group, by its title.

    A difference on the better side of 0 has the colour of the perceptual method; it is grey if its `side` is 0.
    """
    below, above = (NO_PERCEPTUAL, PERCEPTUAL) if higher_is_better else (PERCEPTUAL, NO_PERCEPTUAL)
    counts = [len(estimates) for estimates in panels.values()]
    shape = {"figsize": (6.0, 0.26 * sum(counts) + 0.8 + 0.35 * (len(counts) - 1)), "height_ratios": counts}
    figure, axes = plt.subplots(len(counts), 1, sharex=True, squeeze=False, layout="constrained", **shape)
    for panel, (title, estimates) in zip(axes.flat, panels.items(), strict=True):
        rows = pd.DataFrame([vars(estimate) for estimate in estimates.values()], list(map(in_print, estimates)))
        colours = [(NEUTRAL, above, below)[estimate.side] for estimate in estimates.values()]
        panel.axvline(0, color=NEUTRAL, linewidth=0.8)
        sns.stripplot(x=rows.value, y=rows.index, hue=rows.index, palette=colours, size=6, jitter=False, ax=panel)
        panel.hlines(range(len(rows)), rows.low, rows.high, colors=colours)
        panel.set(title=title, xlabel=xlabel, ylabel="", ylim=(len(rows) - 0.5, -0.5))
        panel.label_outer()
        panel.locator_params("x", nbins=7)
    return figure


def dots(panels: Mapping[str, tuple[pd.Series, pd.Series]]) -> Figure:
    """A table of the paper as a picture: our numbers with their intervals, joined to the paper's (hollow circles).

    Panel title -> our estimates and the paper's numbers, both by "method" or "method, how it was used"; missing ones
    are None or nan.
    """
    size = 4.6, sum(0.16 * len(ours) + 0.7 for ours, _ in panels.values())  # can be read on a phone
    figure, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False, layout="constrained")
    for panel, (title, (ours, paper)) in zip(axes.flat, panels.items(), strict=True):
        for row, (name, own) in enumerate(ours.items()):
            colour = {"perceptual": PERCEPTUAL, "no_perceptual": NO_PERCEPTUAL}.get(name.split(",")[0], NEUTRAL)
            panel.plot(paper[name], row, "o", color=colour, fillstyle="none")
            if isinstance(own, Estimate):
                panel.plot([own.value, paper[name]], [row, row], ":", color=colour, linewidth=1)
                panel.hlines(row, own.low, own.high, color=colour)
                panel.plot(own.value, row, "o", color=colour)
        panel.set(title=title, yticks=range(len(ours)), yticklabels=map(in_print, ours.index), ylim=(len(ours), -1))
    handles = [panel.plot([], [], "o", color="black", fillstyle=style)[0] for style in ("full", "none")]
    figure.legend(handles, ["here, with its interval", "the paper's"], loc="outside lower center", ncols=2)
    return figure


def heat_maps(panels: Mapping[str, pd.DataFrame], label: str, lower_is_better: bool = False) -> Figure:
    """Fig. 5: a number for every range of layers, by the first held (down) and the last (across); yellow is better.

    Panel title -> numbers by first layer (index) and last layer (columns), nan where there is no range. First 0 and
    last -1 stands for no layer, which the paper shows in the corner.
    """
    shape = -(-len(panels) // 2), min(2, len(panels))
    size = (3.6 * shape[1] + 0.6, 3.2 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    low, high = (extreme([extreme(panel) for panel in panels.values()]) for extreme in (np.nanmin, np.nanmax))
    for panel, (title, numbers) in zip(axes.flat, panels.items(), strict=False):
        numbers = numbers.rename(columns={-1: "–"})
        colours = {"cmap": "cividis_r" if lower_is_better else "cividis", "vmin": low, "vmax": high, "cbar": False}
        sns.heatmap(numbers, annot=len(numbers) <= 8, fmt=".2f", square=True, ax=panel, **colours)
        panel.set(title=title, xlabel="last layer held" + " (–: none)" * ("–" in numbers), ylabel="first layer held")
        for text in panel.texts:  # seaborn also writes in white on colours of medium brightness
            is_high = float(text.get_text()) > (low + high) / 2
            text.set_color("black" if is_high != lower_is_better else "white")
        panel.tick_params(length=0)
        panel.tick_params("y", rotation=0)
    figure.colorbar(panel.collections[0], ax=axes, label=label, shrink=0.6)
    return figure


def two_scores(table: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """Two estimates of each method and sigma, the table's columns: the first on the x axis, the second on the y axis.

    The points of one method are joined. Six points are named at the side, in the order of their heights: ours at the
    least and the largest blur, then the others that rank best in one of the two estimates (the least x, the largest y).
    A row without estimates is left out.
    """
    rows = table.set_axis(["across", "up"], axis=1).dropna()
    values = rows.map(lambda estimate: estimate.value)
    places = values.assign(up=-values.up).rank().min(axis=1)
    method, sigma = (rows.index.get_level_values(level).to_series(index=rows.index) for level in ("method", "sigma"))
    between = sigma.groupby(method).transform(lambda own: (own > own.min()) & (own < own.max()))
    named = places.add(~method.isin(["perceptual", "no_perceptual"]) * len(rows))[~between].nsmallest(NAMED).index
    order = values.up[named].sort_values().index
    figure, axes = plt.subplots(figsize=(6.0, 4.2), layout="constrained")
    for name, own in rows.groupby("method", sort=False):
        colour = {"perceptual": PERCEPTUAL, "no_perceptual": NO_PERCEPTUAL}.get(name, NEUTRAL)
        points = [(row.across.value, row.up.value) for row in own.itertuples()]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.2, markersize=5, zorder=3)
        for row, (across, up) in zip(own.itertuples(), points, strict=True):
            axes.hlines(up, row.across.low, row.across.high, color=colour, linewidth=0.8, alpha=0.5)
            axes.vlines(across, row.up.low, row.up.high, color=colour, linewidth=0.8, alpha=0.5)
            if row.Index in order:
                axes.annotate(
                    name if len(own) == 1 or not row.Index[1] else f"{name}, sigma {row.Index[1]:g}",
                    (across, up),
                    (1.03, (order.get_loc(row.Index) + 0.5) / len(order)),
                    textcoords="axes fraction",
                    color=colour,
                    va="center",
                    arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6, "relpos": (0, 0.5)},
                )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure
