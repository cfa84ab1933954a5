"""From the insertion and deletion games' table to Table 2 and Fig. 6 (paper Sec. 4.3), and to the middle of Fig. 5."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from perceptual_lib.evaluation import tables
from perceptual_lib.evaluation.insertion_deletion.protocol import METRICS, auc
from perceptual_lib.evaluation.statistics import Estimate

OURS_AT = {"deletion": 0.0, "insertion": 5.0}  # the blurs of ours that the paper's claims rest on
KEYS = ["method", "sigma"]
SINGLE_METRICS = ["single_blurred", "single_grey", "relevance"]


def insertion_deletion_table(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2, from the experiment's table; other methods are compared with ours.

    Returns:
        By method and sigma, in the order of the experiment: n, failed; `passes`, see `forward_passes`; `deletion` and
        `insertion`, the mean areas under the curves; `deletion_difference` and `insertion_difference`, ours (without
        blur for deletion, at sigma 5 for insertion) minus this row on the photographs that both explained. Each is an
        `Estimate`, or None for fewer than two photographs. `paper_...` are the paper's (nan where it has none).
    """
    compared = _compare(_areas(table[table.role == "table"]), OURS_AT)
    return compared.join(tables.paper_table("table2").set_index("sigma", append=True).add_prefix("paper_"))


def single_table(table: pd.DataFrame) -> pd.DataFrame:
    """What the paper did not play, in the form of Table 2: `single_blurred` and `single_grey`, mean rank correlations
    of `single_deletion`; `relevance`, insertion's area minus deletion's, both with the blurred filling; for each
    `..._difference`, ours at the same sigma minus this row. Without a line if the run has no single deletion."""
    rows = _areas(table[table.role == "single"])
    rows = rows.assign(relevance=rows.insertion - rows.deletion)
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *SINGLE_METRICS])))  # older runs have no such columns
    return _compare(rows, dict.fromkeys(SINGLE_METRICS))


def _compare(rows: pd.DataFrame, measures: Mapping[str, float | None]) -> pd.DataFrame:
    """By method and sigma, each measure's mean, and ours minus it, at the measure's sigma (if None, at the row's)."""
    wide = rows.pivot(index="photograph", columns=KEYS, values=list(measures))
    lines = {}
    for row, of_row in rows.groupby(KEYS, sort=False):
        failed = int((of_row.failure != "").sum())
        lines[row] = line = {"n": len(of_row) - failed, "failed": failed, "passes": tables.forward_passes(of_row)}
        for measure, sigma in measures.items():
            other = tables.OURS, row[1] if sigma is None else sigma
            line[measure] = tables.estimate(wide[measure, *row])
            if (measure, *other) in wide and other != row:
                line[f"{measure}_difference"] = tables.difference_estimate(wide[measure, *other], wide[measure, *row])
    differences = [f"{measure}_difference" for measure in measures]
    result = tables.make_table(lines, ["n", "failed", "passes", *measures, *differences])
    return result.set_axis(pd.MultiIndex.from_tuples(lines, names=KEYS))


def _areas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with areas in place of curves, nan where the method failed."""
    curves = table[list(METRICS)]
    return table.assign(**curves.map(lambda curve: auc(np.asarray(curve)), na_action="ignore").astype(float))


def average_curves(table: pd.DataFrame) -> dict[tuple[str, float], dict[str, Estimate]]:
    """Fig. 6: the mean curves of Table 2's rows, by method and sigma, of "insertion" and "deletion".

    (n,) probabilities after each step, from no pixel changed to all. A row with fewer than two photographs explained is
    left out.
    """
    rows = table[(table.role == "table") & (table.failure == "")]
    return {
        row: {game: tables.estimate(np.stack(lines[game].to_list())) for game in METRICS}
        for row, lines in rows.groupby(KEYS, sort=False)
        if len(lines) > 1
    }


def by_sigma(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, Estimate]]:
    """How each blur of "perceptual" changes the areas, compared with the least blur: blurs of Table 2 and of the sweep.

    For "insertion" and "deletion", sigmas (S,) and the mean paired differences (S,), over the photographs that have all
    blurs; a game is left out if they are fewer than two.
    """
    rows = _areas(table[table.role.isin(["table", "sweep"]) & (table.method == "perceptual")])
    rows = rows.drop_duplicates(["photograph", "sigma"])
    curves = {}
    for game in METRICS:
        areas = rows.pivot(index="photograph", columns="sigma", values=game).dropna()
        if len(areas) > 1:
            curves[game] = areas.columns.to_numpy(), tables.estimate(areas.sub(areas.iloc[:, 0], axis=0))
    return curves


def range_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The ranges of layers from which the profile's is chosen, each on n photographs (Fig. 5, middle).

    Columns: role ("table" for the profile's own), method, first and last layer held, n, `deletion` without blur,
    `insertion` at the largest blur that ranges were tried at, and `spread`, insertion minus deletion, by which the
    paper chooses; nan where there is no photograph.
    """
    tried = table[table.role == "range"]

    def measure(rows: pd.DataFrame) -> tuple[float, ...]:
        deletion = rows.deletion[rows.sigma == 0].mean()
        insertion = rows.insertion[rows.sigma == tried.sigma.max()].mean()
        return rows.photograph[rows.failure == ""].nunique(), deletion, insertion, insertion - deletion

    return tables.by_setting(_areas(tables.with_own(tried, table)), "n deletion insertion spread", measure)
