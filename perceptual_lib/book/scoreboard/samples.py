"""What claims compare: from an experiment's table to scores with a row for each photograph or scene, nan where there
is none, and a column for each thing that is compared. Every public function here is a sample that a claim can name; one
raises `MissingData` where the table lacks what it compares.

No photograph or scene judges a blur or a threshold that was chosen on it. Those of Tables 1 and 3 are chosen on the
selection and judged on all others. Ranges of layers were tried on the selection alone: what is chosen on its odd ones
is judged on the even ones, and the other way round ("crossed"). Insertion and deletion choose nothing: claims name the
blurs. Pointing has means over scenes, not over classes as in the paper: of the classes of mosaics most occur once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import isfunction
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.book.scoreboard.rules import MissingData, on_most_rows
from perceptual_lib.evaluation.insertion_deletion.protocol import GAMES, auc
from perceptual_lib.evaluation.localization.protocol import STRATEGY_COLUMNS
from perceptual_lib.evaluation.localization.table import Scores
from perceptual_lib.evaluation.pointing.protocol import TOLERANCE
from perceptual_lib.evaluation.tables import layer_range

NOTHING = pd.Series(dtype=float)


def scores(
    table: pd.DataFrame,
    measure: str,
    by: str = "method",
    names: Mapping[Any, str | None] | None = None,
    roles: Sequence[str] = ("table",),
) -> pd.DataFrame:
    """(N, ...) of a measure, by method, blur, stage or size.

    Args:
        table: of an experiment.
        measure: one of the `MEASURES`, or a column of the table.
        by: the column that tells what is compared.
        names: what stands in place of values of `by`; None leaves a value out.
        roles: of the lines that count.
    """
    rows = table[table.role.isin(roles)]
    compared = rows[by].map(lambda value: (names or {}).get(value, value))
    groups = rows.groupby(compared, sort=by != "method", observed=True)
    found = {name: _values(lines, measure) for name, lines in groups}
    return pd.DataFrame({name: values for name, values in found.items() if len(values)})


def beside(table: pd.DataFrame, columns: Mapping[str, str | float]) -> pd.DataFrame:
    """(N, columns) of one method: by name several measures, or bounds that are numbers."""
    rows = table[table.role == "table"]
    found = {name: _values(rows, what) if isinstance(what, str) else what for name, what in columns.items()}
    return pd.DataFrame(found)


def areas(table: pd.DataFrame, game: str, blurs: Mapping[str, float]) -> pd.DataFrame:
    """(photographs, methods) of insertion or deletion, at these blurs of methods in pixels, of others without blur."""
    return scores(table[table.sigma == table.method.map(lambda method: blurs.get(method, 0.0))], game)


def mean_gains(table: pd.DataFrame, **groups: Sequence[str]) -> pd.DataFrame:
    """(scenes, groups and "none"): mean gains in pointing of groups of methods, of those on most scenes; and 0."""
    found = on_most_rows(scores(table, "gain"))
    methods = {name: found.columns.intersection(group) for name, group in groups.items()}
    if any(group.empty for group in methods.values()):
        raise MissingData(f"{' and '.join(groups)} methods at both sizes")
    means = {name: found[group].mean(axis=1, skipna=False) for name, group in methods.items()}
    return pd.DataFrame(means | {"none": 0.0})


def larger_against_original(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """(scenes, ...): a method's hits at 1.5 x the size, by its own name, and those of all at the original one."""
    larger, original = (scores(table[table.scale == scale], "hits") for scale in (1.5, 1.0))
    if method not in larger:
        raise MissingData(f"{method} at 1.5 times the size")
    return original.rename(columns="{} at the original size".format).assign(**{method: larger[method]})


def second_convolution(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, 2): correlation once the second layer below the classifier's has been randomized, and a half.

    A block of convolutions counts as one.
    """
    stages = np.unique(table.stage[(table.stage > 0) & ~table.layer.str.startswith("classifier")])
    if len(stages) < 2:
        raise MissingData("two convolutions randomized")
    return beside(table[table.stage == stages[1]], {"correlation": "correlation", "a half": 0.5})


def mean_correlations(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, methods): over all stages but the first, the trained network's, where a map meets itself."""
    return scores(table[table.stage > 0], "correlation")


def growing(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, last layers): the ranges from the first layer on, sequentially more and higher layers."""
    ranges = _ranges(table, measure)
    return ranges[ranges.columns[0][0]]


def top_range(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ranges of layers), the shortest one that ends at the last layer as "top"."""
    ranges = _ranges(table, measure)
    top = max(ranges, key=lambda layers: (layers[1], layers[0]))
    return ranges.set_axis(["top" if each == top else f"{each[0]}-{each[1]}" for each in ranges], axis=1)


def most_or_none(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, 2): the range of the most layers, and no layers."""
    ranges = _ranges(table, measure)
    widest = max(ranges, key=lambda layers: layers[1] - layers[0])
    return pd.DataFrame({"most layers": ranges[widest], "no layers": _no_layers(table, measure, ranges.index)})


def lead_of_ranges(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ranges of layers): what they have more than no layers."""
    ranges = _ranges(table, measure)
    return ranges.sub(_no_layers(table, measure, ranges.index), axis=0)


def layers_and_methods(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ...): what varies with the layers and with the method, columns ("layers", range) and ("methods", name).

    Methods that lack one of the photographs or scenes of the ranges are left out.
    """
    ranges = _ranges(table, measure)
    methods = _methods(table, measure, ranges.index).dropna(axis=1)
    return pd.concat({"layers": ranges.set_axis(map(str, ranges), axis=1), "methods": methods}, axis=1)


SAMPLES = {
    name: value
    for name, value in dict(globals()).items()
    if isfunction(value) and value.__module__ == __name__ and not name.startswith("_")
}


def _ranges(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ranges) by (first, last) layer held, in this order."""
    tried = table[(table.role == "range") & (table.method == "perceptual")].groupby("settings", observed=True)
    found = {layer_range(settings): _values(lines, measure) for settings, lines in tried}
    if not found:
        raise MissingData("ranges of layers")
    return pd.DataFrame({layers: found[layers] for layers in sorted(found)})


def _methods(table: pd.DataFrame, measure: str, units: pd.Index) -> pd.DataFrame:
    """(N, methods) of these photographs or scenes alone."""
    of_these = table["scene" if "scene" in table else "photograph"].isin(units)
    return scores(table[of_these], measure).reindex(units)


def _no_layers(table: pd.DataFrame, measure: str, units: pd.Index) -> pd.Series:
    found = _methods(table[table.method == "no_perceptual"], measure, units)
    if found.empty:
        raise MissingData("no_perceptual")
    return found["no_perceptual"]


def _errors(lines: pd.DataFrame, strategy: str) -> pd.Series:
    """(photographs outside the selection,) 1 or 0, at the blur and the strategy's threshold with the fewest in it."""
    hits = _hits_by_setting(lines, strategy)
    selected = hits.index.isin(lines.photograph[lines.selection])
    return 1 - hits.loc[~selected, hits[selected].mean().idxmax()] if selected.any() else NOTHING


def _crossed_errors(lines: pd.DataFrame) -> pd.Series:
    """(photographs,) at the blur and the value threshold with the fewest on every other one."""
    hits = _hits_by_setting(lines, "value")
    return 1 - _crossed(hits).reindex(hits.index)


def _hits_by_setting(lines: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """(explained photographs, blurs times the strategy's thresholds), 1 or 0."""
    found = Scores.of(lines)
    hits = found.hits[..., STRATEGY_COLUMNS[strategy]]
    return pd.DataFrame(hits.reshape(len(hits), math.prod(hits.shape[1:])), found.names, dtype=float)


def _hits(lines: pd.DataFrame, hard: bool | None = None) -> pd.Series:
    """(scenes outside the selection,) at the blur with the most hits in it; of difficult questions, others, or all."""
    choices = _hits_by_blur(lines[lines.selection])
    if choices.empty:
        return NOTHING
    judged = lines[~lines.selection & (lines.sigma == choices.mean().idxmax())]
    return _hits_by_blur(judged if hard is None else judged[judged.hard == hard]).mean(axis=1)


def _gain(lines: pd.DataFrame) -> pd.Series:
    """(scenes outside the selection,) hits at 1.5 times the size less those at the original one."""
    return (_hits(lines[lines.scale == 1.5]) - _hits(lines[lines.scale == 1.0])).dropna()


def _hits_by_blur(lines: pd.DataFrame) -> pd.DataFrame:
    """(scenes, sigmas): the share of questions that are hits, without the scenes in which the method failed."""
    lines = lines[~lines.scene.isin(lines.scene[lines.distance.isna()])]
    hits = lines.assign(hit=(lines.distance < TOLERANCE).astype(float))
    return hits.pivot_table(index="scene", columns="sigma", values="hit", observed=True)


def _crossed(hits: pd.DataFrame) -> pd.Series:
    """(N,) of (N, settings): each row at the setting with the most hits on every other row; nothing of a single row."""
    halves = hits[::2], hits[1::2]
    if halves[1].empty:
        return NOTHING
    return pd.concat([half[other.mean().idxmax()] for half, other in (halves, halves[::-1])])


def _mean(lines: pd.DataFrame, column: str, function: Callable[[Any], float] = float) -> pd.Series:
    """(photographs,) of what a function makes of a column, without photographs that one line has nothing of."""
    values = lines.set_index("photograph")[column].map(function, na_action="ignore").astype(float)
    return values[~values.index.isin(values.index[values.isna()])].groupby(level=0, sort=False, observed=True).mean()


MEASURES: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    **{f"{strategy} error": partial(_errors, strategy=strategy) for strategy in STRATEGY_COLUMNS},
    "crossed error": _crossed_errors,
    "hits": _hits,
    "difficult hits": partial(_hits, hard=True),
    "other hits": partial(_hits, hard=False),
    "crossed hits": lambda lines: _crossed(_hits_by_blur(lines)),
    "gain": _gain,
    **{game: partial(_mean, column=game, function=lambda curve: float(auc(np.asarray(curve)))) for game in GAMES},
    "flipped": partial(_mean, column="margin", function=lambda margin: float(margin <= 0)),
    "magnitude": partial(_mean, column="size", function=np.log10),  # a few are millions and would be all of a mean
}
"""From the lines of one method with one setting to a number for each photograph or scene."""


def _values(lines: pd.DataFrame, measure: str) -> pd.Series:
    return MEASURES[measure](lines) if measure in MEASURES else _mean(lines, measure)
