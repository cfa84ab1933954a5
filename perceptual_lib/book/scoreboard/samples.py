"""What claims compare: scores from an experiment's table, with a row for each photograph or scene, nan where there is
none, and a column for each thing that is compared. Every public function here is a sample that a claim can name. It
raises `MissingData` if the table lacks what it compares.

No photograph or scene judges a blur or a threshold that was chosen on it: what is chosen on the odd ones is judged on
the even ones, and the other way round, so that all of them judge ("held-out"; Section 4.2 calls it cross-validated).
Insertion and deletion choose nothing: claims name the blurs. Pointing scores are means over scenes, not over classes as
in the paper, because most classes of the mosaics occur only once.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import isfunction
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.book.scoreboard.rules import LEFT_OUT, MissingData, on_most_rows
from perceptual_lib.evaluation.insertion_deletion.protocol import METRICS, auc
from perceptual_lib.evaluation.localization.protocol import STRATEGY_COLUMNS
from perceptual_lib.evaluation.localization.table import Scores
from perceptual_lib.evaluation.pointing.table import question_hits
from perceptual_lib.evaluation.tables import layer_range


def scores(
    table: pd.DataFrame,
    measure: str,
    by: str = "method",
    names: Mapping[Any, str | None] | None = None,
    roles: Sequence[str] = ("table",),
) -> pd.DataFrame:
    """(N, ...): a measure, with a column for each method, blur, stage or size.

    Args:
        table: of an experiment.
        measure: one of the `MEASURES`, or a column of the table.
        by: the column of the table whose values are compared.
        names: new names for values of `by`; None leaves a value out.
        roles: the roles of the lines that count.
    """
    rows = table[table.role.isin(roles)]
    compared = rows[by].map(lambda value: (names or {}).get(value, value))
    groups = rows.groupby(compared, sort=by != "method", observed=True)
    found = {name: _values(lines, measure) for name, lines in groups}
    return pd.DataFrame({name: values for name, values in found.items() if len(values)})


def beside(table: pd.DataFrame, columns: Mapping[str, str | float]) -> pd.DataFrame:
    """(N, columns): several measures of one method, by name; a number, such as a bound, fills its column."""
    rows = table[table.role == "table"]
    found = {name: _values(rows, what) if isinstance(what, str) else what for name, what in columns.items()}
    return pd.DataFrame(found)


def share_larger(table: pd.DataFrame, measure: str, first: str, second: str) -> pd.DataFrame:
    """(N, 2): 1 where the first method's measure is larger than the second's, else 0; and a half.

    A mean above a half says that the median difference is above 0, which a few runaway searches do not move.
    """
    both = scores(table, measure).reindex(columns=[first, second]).dropna()
    return pd.DataFrame({"larger": (both[first] > both[second]).astype(float), "a half": 0.5})


def areas(table: pd.DataFrame, game: str, blurs: Mapping[str, float]) -> pd.DataFrame:
    """(photographs, methods): areas in insertion or deletion, at these blurs in pixels; other methods without blur."""
    return scores(table[table.sigma == table.method.map(lambda method: blurs.get(method, 0.0))], game)


def mean_gains(table: pd.DataFrame, **groups: Sequence[str]) -> pd.DataFrame:
    """(scenes, groups and "none"): each group's mean gain in pointing, over its methods with most scenes; and 0."""
    found = on_most_rows(scores(table, "gain"))
    methods = {name: found.columns.intersection(group) for name, group in groups.items()}
    if any(group.empty for group in methods.values()):
        raise MissingData(f"{' and '.join(groups)} methods at both sizes")
    means = {name: found[group].mean(axis=1, skipna=False) for name, group in methods.items()}
    gains = pd.DataFrame(means | {"none": 0.0})
    gains.attrs[LEFT_OUT] = {name: [each for each in group if each not in found] for name, group in groups.items()}
    return gains


def larger_against_original(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """(scenes, ...): a method's hits at 1.5 times the size, in a column of its name; all methods' at the original."""
    larger, original = (scores(table[table.scale == scale], "hits") for scale in (1.5, 1.0))
    if method not in larger:
        raise MissingData(f"{method} at 1.5 times the size")
    return original.rename(columns="{} at the original size".format).assign(**{method: larger[method]})


def second_convolution(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, 2): correlation after the second layer below the classifier has been randomized, and a half.

    A block of convolutions counts as one layer.
    """
    stages = np.unique(table.stage[(table.stage > 0) & ~table.layer.str.startswith("classifier")])
    if len(stages) < 2:
        raise MissingData("two convolutions randomized")
    return beside(table[table.stage == stages[1]], {"correlation": "correlation", "a half": 0.5})


def mean_correlations(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, methods): mean correlation over all stages but the first: there a map is compared with itself."""
    return scores(table[table.stage > 0], "correlation")


def growing(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, last layers held): no layers as -1, then the ranges from the first layer on, with more and more layers.

    Ranges with the last layer are left out: it is next to the answer, which hardly changes if it is held.
    """
    ranges = _ranges(table, measure)
    first, end = ranges.columns[0][0], max(last for _, last in ranges)
    held = ranges[[layers for layers in ranges if layers[0] == first and layers[1] < end]].droplevel(0, axis=1)
    held.insert(0, -1, _no_layers(table, measure, ranges.index))
    return held


def top_range(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ranges of layers): the shortest range that ends at the last layer is named "top", others such as "4-9"."""
    ranges = _ranges(table, measure)
    top = max(ranges, key=lambda layers: layers[::-1])
    return ranges.set_axis(["top" if each == top else f"{each[0]}-{each[1]}" for each in ranges], axis=1)


def every_range(table: pd.DataFrame, measure: str, activations: int, method: str = "perceptual") -> pd.DataFrame:
    """(N, ranges of layers), named such as "4-9", if all ranges of so many activations were tried, as in the paper."""
    ranges = _ranges(table, measure, method)
    if len(ranges.columns) != activations * (activations + 1) // 2:
        raise MissingData(f"all ranges of {activations} activations, which are those of the paper's network")
    return ranges.set_axis([f"{first}-{last}" for first, last in ranges], axis=1)


def most_or_none(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, 2): the mean over ranges that hold more than half of the layers, but not the last one; and no layers."""
    ranges = _ranges(table, measure)
    end = max(last for _, last in ranges)
    most = [layers for layers in ranges if 2 * (layers[1] - layers[0] + 1) > end + 1 and layers[1] < end]
    if not most:
        raise MissingData("ranges of most layers")
    none = _no_layers(table, measure, ranges.index)
    return pd.DataFrame({"most layers": ranges[most].mean(axis=1, skipna=False), "no layers": none})


def lead_of_ranges(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ranges of layers): the measure of each range less that of no layers."""
    ranges = _ranges(table, measure)
    return ranges.sub(_no_layers(table, measure, ranges.index), axis=0)


def low_and_high(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, 2): mean `lead_of_ranges` of the ranges within the lower half of the layers, and of all others."""
    leads = lead_of_ranges(table, measure)
    low = np.array([2 * last < max(leads)[1] for _, last in leads])
    if not low.any() or low.all():
        raise MissingData("ranges in both halves of the layers")
    means = {"low layers": leads.loc[:, low], "other layers": leads.loc[:, ~low]}
    return pd.DataFrame({name: group.mean(axis=1, skipna=False) for name, group in means.items()})


def last_stages(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, 2): only the last stage held, and only the one before it; in VGG16 these are ReLU 12 and ReLU 9."""
    ranges = _ranges(table, measure)
    last, before = _last_stages(ranges)
    return pd.DataFrame({"last": ranges[last], "before": ranges[before]})


def blurs_of_last_stages(table: pd.DataFrame) -> pd.DataFrame:
    """(scenes, ...): hits at each blur with only the stage before the last held, columns ("before", sigma), and with
    only the last held, columns ("last", sigma)."""
    tried = dict(_lines_of_ranges(table))
    last, before = _last_stages(tried)
    return pd.concat({"before": _hits_by_blur(tried[before]), "last": _hits_by_blur(tried[last])}, axis=1)


def few_blurs(table: pd.DataFrame, few: Sequence[float], measure: str) -> pd.DataFrame:
    """(scenes, 2): one method's hits with the blur chosen among a few, and among all that were tried."""
    rows = table[table.role == "table"]
    return pd.DataFrame({"few": _values(rows[rows.sigma.isin(few)], measure), "all": _values(rows, measure)})


def layers_and_methods(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(N, ...): a measure by the layers held, columns ("layers", range), and by method, columns ("methods", name), on
    the photographs or scenes that all ranges have. Methods that lack one of these are left out."""
    unit = "scene" if "scene" in table else "photograph"
    shared = set.intersection(*(set(lines[unit]) for _, lines in _lines_of_ranges(table)))
    table = table[table[unit].isin(shared)]  # so that settings are chosen on as many for all of them
    ranges = _ranges(table, measure)
    methods = _methods(table, measure, ranges.index).dropna(axis=1)
    return pd.concat({"layers": ranges.set_axis(map(str, ranges), axis=1), "methods": methods}, axis=1)


SAMPLES = {
    name: value
    for name, value in dict(globals()).items()
    if isfunction(value) and value.__module__ == __name__ and not name.startswith("_")
}


def _ranges(table: pd.DataFrame, measure: str, method: str = "perceptual") -> pd.DataFrame:
    """(N, ranges): columns (first, last) layer held, sorted."""
    return pd.DataFrame({layers: _values(lines, measure) for layers, lines in _lines_of_ranges(table, method)})


def _lines_of_ranges(table: pd.DataFrame, method: str = "perceptual") -> list[tuple[tuple[int, int], pd.DataFrame]]:
    """The lines of each range of layers, with its (first, last) layer held, sorted by it."""
    tried = table[(table.role == "range") & (table.method == method)].groupby("settings", observed=True)
    if not len(tried):
        raise MissingData("ranges of layers")
    found = [(layer_range(settings), lines) for settings, lines in tried]
    return sorted((each for each in found if each[0] != (0, -1)), key=lambda each: each[0])  # (0, -1) is no layers


def _last_stages(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shortest range that ends at the last layer, and the shortest that ends just before it begins."""
    *_, last = by_end = sorted(ranges, key=lambda layers: layers[::-1])
    if len(by_end) == 91:  # all ranges of VGG16's 13 activations: ReLU 9 ends the stage before the last
        return last, (9, 9)
    before = [layers for layers in by_end if layers[1] < last[0]]
    if not before:
        raise MissingData("two stages held alone")
    return last, before[-1]


def _methods(table: pd.DataFrame, measure: str, units: pd.Index) -> pd.DataFrame:
    """(N, methods): scores on these photographs or scenes alone."""
    of_these = table["scene" if "scene" in table else "photograph"].isin(units)
    return scores(table[of_these], measure).reindex(units)


def _no_layers(table: pd.DataFrame, measure: str, units: pd.Index) -> pd.Series:
    if (found := _methods(table[table.method == "no_perceptual"], measure, units)).empty:
        raise MissingData("no_perceptual")
    return found["no_perceptual"]


def _errors(lines: pd.DataFrame, strategy: str) -> pd.Series:
    """(photographs,): 1 for an error, else 0; blur and threshold have the fewest errors on the other half of them."""
    return 1 - _crossed(_hits_by_setting(lines, strategy))


def _hits_by_setting(lines: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """(explained photographs, blurs times the strategy's thresholds): 1 for a hit, else 0."""
    found = Scores.of(lines)
    hits = found.hits[..., STRATEGY_COLUMNS[strategy]]
    return pd.DataFrame(hits.reshape(len(hits), math.prod(hits.shape[1:])), found.names, dtype=float)


def _hits(lines: pd.DataFrame, hard: bool | None = None) -> pd.Series:
    """(scenes,): hits in difficult questions, others or all; the blur has the most hits of all on the other half."""
    hits = _hits_by_blur(lines)
    return _crossed(hits, hits if hard is None else _hits_by_blur(lines[lines.hard == hard]).reindex(hits.index))


def _gain(lines: pd.DataFrame) -> pd.Series:
    """(scenes,): hits at 1.5 times the size less those at the original size."""
    return (_hits(lines[lines.scale == 1.5]) - _hits(lines[lines.scale == 1.0])).dropna()


def _hits_by_blur(lines: pd.DataFrame) -> pd.DataFrame:
    """(scenes, sigmas): the share of questions that are hits, without the scenes in which the method failed."""
    return question_hits(lines).groupby(level="scene", observed=True).mean()


def _crossed(hits: pd.DataFrame, judged: pd.DataFrame | None = None) -> pd.Series:
    """(N,) from hits (N, settings): each row at the setting with the most hits on the other half of the rows (even or
    odd). `judged` (N, settings) gives the result instead of `hits`, if given. A single row gives nothing."""
    judged = hits if judged is None else judged
    if len(hits) < 2:
        return pd.Series(dtype=float)
    found = [judged[half::2][hits[1 - half :: 2].mean().idxmax()] for half in range(2)]
    return pd.concat(found).reindex(hits.index).dropna()


def _mean(lines: pd.DataFrame, column: str, function: Callable[[Any], float] = float) -> pd.Series:
    """(photographs,): mean of a function of a column; photographs with a missing value in one line are left out."""
    values = lines.set_index("photograph")[column].map(function, na_action="ignore").astype(float)
    return values[~values.index.isin(values.index[values.isna()])].groupby(level=0, sort=False, observed=True).mean()


MEASURES: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    **{f"{strategy} error": partial(_errors, strategy=strategy) for strategy in STRATEGY_COLUMNS},
    "hits": _hits,
    "difficult hits": partial(_hits, hard=True),
    "other hits": partial(_hits, hard=False),
    "hits at any blur": lambda lines: _hits_by_blur(lines).mean(axis=1),
    "gain": _gain,
    **{game: partial(_mean, column=game, function=lambda curve: float(auc(np.asarray(curve)))) for game in METRICS},
    "insertion less deletion": lambda lines: MEASURES["insertion"](lines) - MEASURES["deletion"](lines),
    "flipped": partial(_mean, column="margin", function=lambda margin: float(margin <= 0)),
}
"""Name -> a function from the lines of one method with one setting to a number for each photograph or scene."""


def _values(lines: pd.DataFrame, measure: str) -> pd.Series:
    if measure not in MEASURES and measure not in lines:
        raise MissingData(f"the column {measure}: not measured there")
    return MEASURES[measure](lines) if measure in MEASURES else _mean(lines, measure)
