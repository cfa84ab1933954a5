"""What claims about the regularized layers compare and say (Figs. 2 and 5), whatever is scored."""

from collections.abc import Callable

import pandas as pd

from perceptual_lib.book.scoreboard.verdicts import MissingData
from perceptual_lib.evaluation.tables import layer_range

EQUATION_5 = (
    "Eq. (5) performs better than the unregularized Eq. (4) for weak localization, insertion and deletion and the "
    "pointing game."
)
MOST_LAYERS = (
    "Regularizing over most of the layers is effective for weak localization, insertion and deletion, and pointing "
    "games."
)
STABLE = "We find that the method is relatively stable"
VGG = "VGG19bn's weights, ImageNet's first validation images, and a GPU for all ranges of its layers"
WITHOUT = ("no_perceptual",)
"""What Eq. (5) is compared with: Eq. (4)."""


def by_layers(table: pd.DataFrame, score: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    """Scores for the ranges of layers that were tried.

    Args:
        table: of an experiment.
        score: from the lines of one setting to a score for each photograph or scene.

    Returns:
        (N, ranges) by (first, last) layer held, in this order.

    Raises:
        MissingData: no ranges were tried.
    """
    tried = table[(table.role == "range") & (table.method == "perceptual")]
    scores = {layer_range(settings): score(lines) for settings, lines in tried.groupby("settings", sort=False)}
    if not scores:
        raise MissingData("ranges of layers")
    return pd.DataFrame({layers: scores[layers] for layers in sorted(scores)})


def growing(ranges: pd.DataFrame) -> pd.DataFrame:
    """Of the ranges those from the first layer on, by the last layer held: sequentially more and higher layers."""
    return ranges[ranges.columns[0][0]]


def most_layers(ranges: pd.DataFrame, none: pd.Series) -> pd.DataFrame:
    """The range of the most layers, and scores without any."""
    widest = max(ranges, key=lambda layers: layers[1] - layers[0])
    return pd.DataFrame({"most layers": ranges[widest], "no layers": none})


def beside_methods(ranges: pd.DataFrame, methods: pd.DataFrame) -> pd.DataFrame:
    """(N, ...) what varies with the layers, and with the method, on the same photographs or scenes.

    Args:
        ranges: (N, ranges of layers).
        methods: (any, methods); those that lack one of the N are left out.

    Returns:
        Columns are pairs ("layers", range) and ("methods", name).
    """
    of_the_same = methods.reindex(ranges.index).dropna(axis=1)
    return pd.concat({"layers": ranges.set_axis(map(str, ranges), axis=1), "methods": of_the_same}, axis=1)


def top_first(ranges: pd.DataFrame) -> pd.DataFrame:
    """The ranges by name, the shortest one that ends at the last layer as "top"."""
    top = max(ranges, key=lambda layers: (layers[1], layers[0]))
    return ranges.set_axis(["top" if each == top else f"{each[0]}-{each[1]}" for each in ranges], axis=1)
