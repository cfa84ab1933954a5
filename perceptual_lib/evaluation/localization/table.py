"""From weak localization's table to Table 1 (paper Sec. 4.2), its curves, and the top of Fig. 5."""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from perceptual_lib.evaluation.localization.protocol import STRATEGY_COLUMNS, best_column, held_out_hits
from perceptual_lib.evaluation.statistics import Estimate, bootstrap, paired_difference
from perceptual_lib.evaluation.tables import by_setting, forward_passes, make_table, paper_table, with_own


@dataclass(frozen=True)
class Scores:
    """One method's hits in weak localization.

    Attributes:
        names: N photographs.
        sigmas: S blurs.
        hits: (N, S, 250), 1 for a hit, 0 for a miss, nan where the method failed.
        selection: (N,) bool, the photographs that settings are chosen on.
    """

    names: tuple[str, ...]
    sigmas: tuple[float, ...]
    hits: np.ndarray
    selection: np.ndarray

    @classmethod
    def of(cls, lines: pd.DataFrame) -> "Scores":
        """From the lines of one method with one setting."""
        selection = lines.groupby("photograph", sort=False).selection.first()
        names, sigmas = selection.index, np.sort(lines.sigma.unique())
        failed = np.full(STRATEGY_COLUMNS["best"].stop, np.nan)
        by_key = {(line.photograph, line.sigma): failed if line.failure else line.hits for line in lines.itertuples()}
        hits = np.array([[by_key[name, sigma] for sigma in sigmas] for name in names], dtype=np.float64)
        return cls(tuple(names), tuple(sigmas), hits, selection.to_numpy())

    @property
    def explained(self) -> np.ndarray:
        """(N,) bool: the photographs that there is a result for."""
        return ~np.isnan(self.hits[:, 0, 0])

    @property
    def can_choose(self) -> bool:
        """Whether there is a result for a photograph of the selection."""
        return bool((self.explained & self.selection).any())

    @cached_property
    def misses(self) -> np.ndarray:
        """(N, S, 250)."""
        return 1 - self.hits

    def choose(self) -> tuple[int, int]:
        """Blur and threshold, as indices, with the least error on the selection; the first of equals.

        There must be a result for one of its photographs; see `can_choose`.
        """
        errors = np.nanmean(self.misses[self.selection], 0)
        return tuple(int(index) for index in np.unravel_index(errors.argmin(), errors.shape))

    def in_sample(self, strategy: str) -> Estimate:
        """Error on all photographs at the strategy's threshold that is best for them: the paper's way.

        The interval is that of this threshold: it does not know that it was chosen, `cross_validated` does.
        """
        hits = self._hits_at_chosen_blur[:, STRATEGY_COLUMNS[strategy]]
        return bootstrap(1 - hits[:, best_column(hits)])

    @property
    def _hits_at_chosen_blur(self) -> np.ndarray:
        """(explained photographs, 250) bool."""
        return self.hits[self.explained, self.choose()[0]] > 0

    def by_sigma(self, strategy: str) -> Estimate:
        """(S,) error on all photographs at each blur's best threshold; the intervals are those of that threshold."""
        misses = self.misses[..., STRATEGY_COLUMNS[strategy]]
        best = np.nanmean(misses, 0).argmin(1)
        return bootstrap(np.take_along_axis(misses, best[None, :, None], 2)[..., 0])

    def by_alpha(self, strategy: str) -> Estimate:
        """(K,) error on all photographs at each of the strategy's thresholds, at the blur chosen on the selection."""
        return bootstrap(self.misses[:, self.choose()[0], STRATEGY_COLUMNS[strategy]])

    def cross_validated(self) -> Estimate | None:
        """Error on all photographs, threshold and strategy chosen on one half and applied to the other."""
        hits = self._hits_at_chosen_blur
        return bootstrap(1 - held_out_hits(hits)) if len(hits) > 1 else None

    def held_out(self) -> Estimate | None:
        """Error on the photographs that nothing was chosen on, at the blur and threshold chosen on the others."""
        misses = self.held_out_misses
        return None if misses.isna().all() else bootstrap(misses)

    @property
    def held_out_misses(self) -> pd.Series:
        """Of the photographs outside the selection, by name: at the blur and threshold chosen on it."""
        blur, threshold = self.choose()
        return pd.Series(self.misses[:, blur, threshold], list(self.names))[~self.selection]


def difference(ours: Scores, other: Scores) -> Estimate | None:
    """Ours less another's error on the held-out photographs that both explained; below 0 where ours is better."""
    misses = pd.concat([ours.held_out_misses, other.held_out_misses], axis=1, join="inner").dropna()
    return None if misses.empty else paired_difference(misses[0], misses[1])


def table_scores(table: pd.DataFrame) -> dict[str, Scores]:
    """The scores of Table 1's rows by method."""
    rows = table[table.role == "table"]
    return {method: Scores.of(lines) for method, lines in rows.groupby("method", sort=False)}


def localization_table(table: pd.DataFrame, ours: str = "perceptual") -> pd.DataFrame:
    """Table 1.

    Args:
        table: of the experiment.
        ours: the method that the others are compared with.

    Returns:
        By method: n, failed; passes, see `forward_passes`; sigma, chosen on the selection; the errors `value`,
        `percent`, `mean`, `best` on all photographs at the best threshold; `cross_validated`; `held_out` and
        `difference` (ours less this method's) on the photographs outside the selection, at the blur and threshold
        chosen on it. Each is an `Estimate` or None.
        `paper_value` to `paper_best` are the paper's (nan where it has none).
    """
    scores, lines = table_scores(table), {}
    for method, one in scores.items():
        n = int(one.explained.sum())
        passes = forward_passes(table[(table.role == "table") & (table.method == method)])
        line = {"n": n, "failed": len(one.names) - n, "passes": passes}
        if one.can_choose:
            line |= {"sigma": one.sigmas[one.choose()[0]]} | {name: one.in_sample(name) for name in STRATEGY_COLUMNS}
            line |= {"cross_validated": one.cross_validated(), "held_out": one.held_out()}
            if method != ours and ours in scores and scores[ours].can_choose:
                line["difference"] = difference(scores[ours], one)
        lines[method] = line
    columns = ["n", "failed", "passes", "sigma", *STRATEGY_COLUMNS, "cross_validated", "held_out", "difference"]
    return make_table(lines, columns).join(paper_table("table1").add_prefix("paper_"))


def trials(table: pd.DataFrame, strategy: str = "value") -> pd.DataFrame:
    """The settings that the profile's are chosen from, each on the same photographs (Fig. 5, top).

    Returns:
        role ("table" for the profile's own), method, first and last layer held, layer_weight, n, and error: the least
        over blurs and the strategy's thresholds.
    """
    lines = []
    for setting, rows in by_setting(with_own(table[table.role != "table"], table)):
        scores = Scores.of(rows)
        error = np.nanmean(scores.misses[..., STRATEGY_COLUMNS[strategy]], 0).min()
        weight = json.loads(rows.settings.iloc[0])["layer_weight"]
        lines.append((*setting, weight, scores.explained.sum(), error))
    return pd.DataFrame(lines, columns="role method first last layer_weight n error".split())
