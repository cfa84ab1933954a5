"""From the insertion and deletion games' table to Table 2 and Fig. 6 (paper Sec. 4.3), and to the middle of Fig. 5.

The experiment's table has one line for each method, blur and photograph: role ("table" for Table 2, "sweep" for other
blurs of the perceptual method, "range" for other layers held), method, settings (JSON), sigma, photograph, failure (""
or why there is no map), and the curves `insertion` and `deletion`, (n,) probabilities each.
"""

import numpy as np
import pandas as pd

from perceptual_lib.evaluation.insertion_deletion.protocol import GAMES, auc
from perceptual_lib.evaluation.statistics import Estimate
from perceptual_lib.evaluation.tables import (
    by_setting,
    difference_estimate,
    estimate,
    forward_passes,
    make_table,
    paper_table,
    with_own,
)

OURS_AT = {"deletion": 0.0, "insertion": 5.0}  # the blurs of ours that the paper's claims rest on
ROW = ["method", "sigma"]


def insertion_deletion_table(table: pd.DataFrame, ours: str = "perceptual") -> pd.DataFrame:
    """Table 2.

    Args:
        table: of the experiment.
        ours: the method that the others are compared with.

    Returns:
        By method and sigma, in the order of the experiment: n, failed; `passes`, see `forward_passes`; `deletion` and
        `insertion`, the mean areas under the curves; `deletion_difference` and `insertion_difference`, ours (without
        blur for deletion, at sigma 5 for insertion) less this row on the photographs that both explained. Each is an
        `Estimate`, or None for fewer than two photographs. `paper_deletion` and `paper_insertion` are the paper's (nan
        where it has none).
    """
    rows = _areas(table[table.role == "table"])
    lines = {}
    areas = {game: rows.pivot(index="photograph", columns=ROW, values=game) for game in GAMES}
    for row, of_row in rows.groupby(ROW, sort=False):
        failed = int((of_row.failure != "").sum())
        line = {"n": len(of_row) - failed, "failed": failed, "passes": forward_passes(of_row)}
        for game, sigma in OURS_AT.items():
            line[game] = estimate(areas[game][row])
            if (ours, sigma) in areas[game] and (ours, sigma) != row:
                line[f"{game}_difference"] = difference_estimate(areas[game][ours, sigma], areas[game][row])
        lines[row] = line
    result = make_table(lines, ["n", "failed", "passes", *OURS_AT, *(f"{game}_difference" for game in OURS_AT)])
    result.index = pd.MultiIndex.from_tuples(lines, names=ROW)
    return result.join(paper_table("table2").set_index("sigma", append=True).add_prefix("paper_"))


def _areas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with areas in place of curves, nan where the method failed."""
    areas = {game: table[game].map(lambda curve: auc(np.asarray(curve)), na_action="ignore") for game in GAMES}
    return table.assign(**{game: column.astype(float) for game, column in areas.items()})


def average_curves(table: pd.DataFrame) -> dict[tuple[str, float], dict[str, Estimate]]:
    """Fig. 6: the mean curves of Table 2's rows.

    Returns:
        By method and sigma: "insertion" and "deletion", (n,) probabilities after each step, from no pixel changed to
        all. A row with fewer than two photographs explained is left out.
    """
    rows = table[(table.role == "table") & (table.failure == "")]
    return {
        row: {game: estimate(np.stack(lines[game].to_list())) for game in GAMES}
        for row, lines in rows.groupby(ROW, sort=False)
        if len(lines) > 1
    }


def by_sigma(table: pd.DataFrame, method: str = "perceptual") -> dict[str, tuple[np.ndarray, Estimate]]:
    """The areas over the blur, those of Table 2 and those of the sweep, on the photographs that have all of them.

    Returns:
        For "insertion" and "deletion", sigmas (S,) and the mean areas (S,); empty for fewer than two photographs.
    """
    rows = _areas(table[table.role.isin(["table", "sweep"]) & (table.method == method)])
    rows = rows.drop_duplicates(["photograph", "sigma"])
    curves = {}
    for game in GAMES:
        areas = rows.pivot(index="photograph", columns="sigma", values=game).dropna()
        if len(areas) > 1:
            curves[game] = areas.columns.to_numpy(), estimate(areas)
    return curves


def range_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The ranges of layers that the profile's is chosen from, each on the same photographs (Fig. 5, middle).

    Returns:
        role ("table" for the profile's own), method, first and last layer held, n, `deletion` without blur, `insertion`
        at the largest blur that the ranges were tried at, and `spread`, insertion less deletion, which the paper
        chooses by. nan where there is no photograph.
    """
    tried = table[table.role == "range"]
    lines = []
    for setting, rows in by_setting(_areas(with_own(tried, table))):
        deletion = rows.deletion[rows.sigma == 0].mean()
        insertion = rows.insertion[rows.sigma == tried.sigma.max()].mean()
        n = rows.photograph[rows.failure == ""].nunique()
        lines.append((*setting, n, deletion, insertion, insertion - deletion))
    return pd.DataFrame(lines, columns="role method first last n deletion insertion spread".split())
