"""From the pointing game's table to Table 3 (paper Sec. 4.4), to the bottom of Fig. 5, and to SM B.2.

The experiment's table has one line for each method, scale, blur and question, which is a class in a scene: role
("table" for Table 3, "range" for other layers held), method, settings (JSON), scale, sigma, scene, target (the class),
hard, selection (whether settings are chosen on the scene), and distance: pixels from the map's maximum to the object,
nan where there is no map. A resample draws scenes, with all their questions. A scene in which a method failed is left
out of its numbers as a whole.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from perceptual_lib.evaluation.pointing.protocol import TOLERANCE, class_mean, count_hits
from perceptual_lib.evaluation.statistics import Estimate
from perceptual_lib.evaluation.tables import (
    by_setting,
    difference_estimate,
    estimate,
    forward_passes,
    make_table,
    paper_table,
)

QUESTION = ["scene", "target", "hard", "selection"]
CELLS = "n hard_n scenes failed passes sigma all hard held_out held_out_hard unblurred difference".split()
Classes = Sequence[int] | None


def pointing_table(table: pd.DataFrame, scale: float, ours: str = "perceptual", among: Classes = None) -> pd.DataFrame:
    """Table 3, one of its two halves.

    Args:
        table: of the experiment.
        scale: of the pictures, 1.0 or 1.5.
        ours: the method that the others are compared with.
        among: the classes that a mean goes over, as for `count_hits`; None for those that occur.

    Returns:
        By method: n, the questions that enter, and `hard_n` of them difficult; their `scenes`; `failed`, the questions
        without a map; `passes`, see `forward_passes`, for one question; `sigma`, chosen on the selection by the mean
        accuracy over classes, the first of equals. The mean accuracy over classes at that blur: on `all` questions and
        on the `hard` ones, as in the paper; on those of them outside the selection, `held_out` and `held_out_hard`; on
        all questions without blur, `unblurred`; `difference`, ours less this method's on the questions outside the
        selection that both answered, each at its own blur. Each is an `Estimate`, or None for fewer than two scenes, or
        without a sigma. `paper_all` and `paper_hard` are the paper's (nan where it has none).
    """
    rows = _rows(table, scale)
    hits = {method: _hits(lines) for method, lines in rows.groupby("method", sort=False)}
    sigmas = {method: _choose_sigma(one, among) for method, one in hits.items()}
    held_out = {
        method: one.loc[~_is(one, "selection"), sigmas[method]]
        for method, one in hits.items()
        if sigmas[method] is not None
    }
    lines = {}
    for method, one in hits.items():
        own = rows[rows.method == method]
        line = lines[method] = {
            "n": len(one),
            "hard_n": int(_is(one, "hard").sum()),
            "scenes": one.index.unique("scene").size,
            "failed": len(own[own.distance.isna()].drop_duplicates(["scene", "target"])),
            "passes": forward_passes(own, multilabel=True),
            "sigma": sigmas[method],
            "unblurred": _accuracy(one[0.0], among) if 0.0 in one else None,
        }
        if method in held_out:
            samples = {"all": one[sigmas[method]], "held_out": held_out[method]}
            samples |= {"hard": _only_hard(samples["all"]), "held_out_hard": _only_hard(samples["held_out"])}
            line |= {name: _accuracy(some, among) for name, some in samples.items()}
            if method != ours and ours in held_out:
                line["difference"] = _difference(held_out[ours], held_out[method], among)
    paper = paper_table("table3")
    paper = paper[paper.scale == scale].drop(columns="scale").add_prefix("paper_")
    return make_table(lines, CELLS).join(paper)


def pointing_by_sigma(
    table: pd.DataFrame, scale: float, among: Classes = None
) -> dict[str, tuple[np.ndarray, Estimate]]:
    """The mean accuracy over classes on all questions, over the blur.

    Args:
        table, scale, among: as for `pointing_table`.

    Returns:
        By method, sigmas (S,) and accuracies (S,); a method that answered in fewer than two scenes is left out.
    """
    curves = {}
    for method, lines in _rows(table, scale).groupby("method", sort=False):
        hits = _hits(lines)
        accuracies = _accuracy(hits, among)
        if accuracies is not None:
            curves[method] = hits.columns.to_numpy(), accuracies
    return curves


def success_rates(table: pd.DataFrame, scale: float, level: float = 0.82) -> pd.DataFrame:
    """What layers and blur are chosen by (Fig. 5, bottom, and SM B.2): the rate of hits on the selection, over blurs.

    Not a mean over classes: of the few questions that the paper chooses on, some classes have hardly any.

    Args:
        table, scale: as for `pointing_table`.
        level: what a consistent method exceeds at most blurs; the paper's is 0.82.

    Returns:
        role ("table" for the profile's own), method, first and last layer held (0 and -1 for none, <NA> where a method
        knows no layers), n questions, all on the same scenes: `rate`, the largest over blurs, the first `sigma` that
        reaches it, and `share`, that of the blurs with a rate above the level: of all whole pixels from the least to
        the largest blur, as in the paper, rates between those tried being interpolated. nan where there is no question.
    """
    rows = table[(table.scale == scale) & table.selection]
    tried = rows[rows.role == "range"]
    rows = rows[rows.scene.isin(tried.scene)] if len(tried) else rows
    lines = []
    for setting, of_setting in by_setting(rows):
        hits = _hits(of_setting)
        rates = hits.mean()
        found = (rates.max(), rates.idxmax(), _share_above(rates, level)) if len(hits) else (np.nan,) * 3
        lines.append((*setting, len(hits), *found))
    columns = "role method first last n rate sigma share".split()
    return pd.DataFrame(lines, columns=columns).astype({"first": "Int64", "last": "Int64"})


def _share_above(rates: pd.Series, level: float) -> float:
    """Of the whole pixels of blur, rates being by sigma."""
    sigmas = rates.index.to_numpy(dtype=float)
    return float((np.interp(np.arange(np.ceil(sigmas[0]), sigmas[-1] + 1), sigmas, rates) > level).mean())


def _rows(table: pd.DataFrame, scale: float) -> pd.DataFrame:
    return table[(table.role == "table") & (table.scale == scale)]


def _hits(lines: pd.DataFrame) -> pd.DataFrame:
    """One method's hits, (Q, S) bool by QUESTION and sigma, without the scenes in which it failed."""
    distances = lines.pivot(index=QUESTION, columns="sigma", values="distance")
    scenes = distances.index.get_level_values("scene")
    return distances[~scenes.isin(scenes[distances.isna().any(axis=1)])] < TOLERANCE


def _is(hits: pd.DataFrame | pd.Series, name: str) -> np.ndarray:
    """(Q,) bool: whether a question is "hard", or of the "selection"."""
    return hits.index.get_level_values(name).to_numpy(dtype=bool)


def _only_hard(hits: pd.Series) -> pd.Series:
    return hits[_is(hits, "hard")]


def _counts(hits: pd.DataFrame | pd.Series, among: Classes) -> np.ndarray:
    return count_hits(hits, hits.index.get_level_values("scene"), hits.index.get_level_values("target"), among)


def _accuracy(hits: pd.DataFrame | pd.Series, among: Classes) -> Estimate | None:
    """Of hits (Q,) or (Q, S), the mean accuracy over classes, or accuracies (S,)."""
    return estimate(_counts(hits, among), class_mean) if len(hits) else None


def _choose_sigma(hits: pd.DataFrame, among: Classes) -> float | None:
    selected = hits[_is(hits, "selection")]
    if selected.empty:
        return None
    return float(hits.columns[class_mean(_counts(selected, among).sum(0, keepdims=True))[0].argmax()])


def _difference(ours: pd.Series, other: pd.Series, among: Classes) -> Estimate | None:
    common = ours.index.intersection(other.index)
    if common.empty:
        return None
    return difference_estimate(_counts(ours[common], among), _counts(other[common], among), class_mean)
