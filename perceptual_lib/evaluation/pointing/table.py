"""From the pointing game's table to Table 3 (paper Sec. 4.4), to the bottom of Fig. 5, and to SM B.2.

A resample draws scenes, each with all its questions. A scene in which a method failed on any question is left out of
the method's numbers as a whole.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from perceptual_lib.evaluation import tables
from perceptual_lib.evaluation.pointing.protocol import TOLERANCE, class_mean, count_hits
from perceptual_lib.evaluation.statistics import Estimate

QUESTION = ["scene", "target", "hard", "selection"]
CELLS = "n hard_n scenes failed passes sigma all hard held_out held_out_hard unblurred difference".split()
PINNED = ["pinned_sigma", "pinned_all", "pinned_hard"]
Classes = Sequence[int] | None
"""Those that a mean goes over, as for `count_hits`; None for those that occur."""


def pointing_table(
    table: pd.DataFrame, scale: float, among: Classes = None, pinned: float | None = None
) -> pd.DataFrame:
    """One of the two halves of Table 3, from the lines of the experiment's table at this scale (1.0 or 1.5); other
    methods are compared with ours. From the lines of a few sigmas only, it is what SM B reports.

    Returns:
        By method: n, the questions that enter, `hard_n`, the difficult ones of these, and `scenes`, their scenes;
        `failed`, the questions without a map; `passes` for one question, see `forward_passes`; `sigma`, chosen on the
        selection by the mean accuracy over classes (ties: the first). Then this accuracy: on `all` questions and on the
        `hard` ones, as in the paper; outside the selection, `held_out` and `held_out_hard`; on all without blur,
        `unblurred`; and `difference`, ours minus this method's on the questions outside the selection that both
        answered, each at its own blur. Each is an `Estimate`, or None for fewer than two scenes or without a sigma. If
        a pinned sigma, such as the paper's at this scale, was tried, ours also has `pinned_sigma`, `pinned_all` and
        `pinned_hard`. `paper_all` and `paper_hard` are the paper's (nan where it has none).
    """
    hits = _hits_by_method(table, scale)
    sigmas = {method: _choose_sigma(one, among) for method, one in hits.items()}
    held_out = {method: one.query("not selection") for method, one in hits.items()}
    lines = {}
    for method, one in hits.items():
        own = table[(table.role == "table") & (table.scale == scale) & (table.method == method)]
        sigma, late = sigmas[method], held_out[method]
        judged = {"all": one, "hard": one.query("hard"), "held_out": late, "held_out_hard": late.query("hard")}
        lines[method] = line = {
            "n": len(one),
            "hard_n": len(judged["hard"]),
            "scenes": one.index.unique("scene").size,
            "failed": len(own[own.distance.isna()].drop_duplicates(["scene", "target"])),
            "passes": tables.forward_passes(own, multilabel=True),
            "sigma": sigma,
            **{name: _accuracy(questions, sigma, among) for name, questions in judged.items()},
            "unblurred": _accuracy(one, 0.0, among) if 0.0 in one else None,
        }
        if method == tables.OURS and pinned in one:
            line["pinned_sigma"] = pinned
            line |= {f"pinned_{name}": _accuracy(judged[name], pinned, among) for name in ("all", "hard")}
        if method != tables.OURS and None not in (sigma, sigmas.get(tables.OURS)):
            answers = [held_out[each][sigmas[each]] for each in (tables.OURS, method)]
            both = pd.concat(answers, axis=1, join="inner", keys=["ours", "other"])
            if len(both):
                counts = (_counts(both[whose], among) for whose in both)
                line["difference"] = tables.difference_estimate(*counts, class_mean)
    paper = tables.paper_table("table3")
    paper = paper[paper.scale == scale].drop(columns="scale").add_prefix("paper_")
    return tables.make_table(lines, CELLS + (PINNED if pinned is not None else [])).join(paper)


def pointing_by_sigma(table: pd.DataFrame, scale: float, among: Classes) -> dict[str, tuple[np.ndarray, Estimate]]:
    """By method, sigmas (S,) and the mean accuracies over these classes (S,) on all questions.

    A method that answered in fewer than two scenes is left out.
    """
    hits = _hits_by_method(table, scale)
    curves = {method: (one.columns.to_numpy(), _accuracy(one, slice(None), among)) for method, one in hits.items()}
    return {method: curve for method, curve in curves.items() if curve[1] is not None}


def success_rates(table: pd.DataFrame, scale: float, level: float = 0.82) -> pd.DataFrame:
    """The rate of hits on the selection, over blurs, by which layers and blur are chosen (Fig. 5, bottom, and SM B.2).

    It is not a mean over classes: some classes have hardly any of the few questions that the paper chooses on.

    Returns:
        By setting (role "table" for the profile's own; first 0 and last -1 for no layers held, <NA> for a method
        without layers): n questions; `rate`, the largest over blurs, and the first `sigma` that
        reaches it; `share`, the share of blurs with a rate above the level, high for a consistent method. As in the
        paper, it is that of all whole pixels from the least to the largest blur, with rates interpolated between the
        blurs tried. nan where there is no question.
    """
    rows = table[(table.scale == scale) & table.selection]
    tried = rows[rows.role == "range"]
    rows = rows[rows.scene.isin(tried.scene)] if len(tried) else rows

    def measure(of_setting: pd.DataFrame) -> tuple[float, ...]:
        hits = question_hits(of_setting)
        if hits.empty:
            return 0, np.nan, np.nan, np.nan
        sigmas, rates = hits.columns, hits.mean()
        pixels = np.arange(np.ceil(sigmas[0]), sigmas[-1] + 1)
        return len(hits), rates.max(), rates.idxmax(), (np.interp(pixels, sigmas, rates) > level).mean()

    return tables.by_setting(rows, "n rate sigma share", measure)


def _hits_by_method(table: pd.DataFrame, scale: float) -> dict[str, pd.DataFrame]:
    rows = table[(table.role == "table") & (table.scale == scale)]
    return {method: question_hits(lines) for method, lines in rows.groupby("method", sort=False)}


def question_hits(lines: pd.DataFrame) -> pd.DataFrame:
    """One method's hits, (Q, sigmas) bool, by QUESTION, without the scenes in which it failed."""
    distances = lines.pivot(index=QUESTION, columns="sigma", values="distance")
    scenes = distances.index.get_level_values("scene")
    return distances[~scenes.isin(scenes[distances.isna().any(axis=1)])] < TOLERANCE


def _counts(hits: pd.DataFrame | pd.Series, among: Classes) -> np.ndarray:
    return count_hits(hits, *(hits.index.get_level_values(name) for name in ("scene", "target")), among)


def _choose_sigma(hits: pd.DataFrame, among: Classes) -> float | None:
    if (selected := hits.query("selection")).empty:
        return None
    return float(hits.columns[class_mean(_counts(selected, among).sum(0, keepdims=True))[0].argmax()])


def _accuracy(hits: pd.DataFrame, sigma: float | slice | None, among: Classes) -> Estimate | None:
    """The mean over classes at a sigma, or at several (S,); None without a question or a sigma."""
    return None if hits.empty or sigma is None else tables.estimate(_counts(hits.loc[:, sigma], among), class_mean)
