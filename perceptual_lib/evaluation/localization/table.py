"""From weak localization's table to Table 1 (paper Sec. 4.2), its curves, and the top of Fig. 5."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from perceptual_lib.evaluation import tables
from perceptual_lib.evaluation.localization.protocol import STRATEGY_COLUMNS, THRESHOLDS, best_column, held_out_hits
from perceptual_lib.evaluation.statistics import Estimate, bootstrap


@dataclass(frozen=True)
class Scores:
    """One method's hits in weak localization, with one setting."""

    names: tuple[str, ...]  #: the N photographs that it explained
    sigmas: tuple[float, ...]  #: S blurs
    hits: np.ndarray  #: (N, S, 250) bool
    selection: np.ndarray  #: (N,) bool, the photographs that settings are chosen on
    failed: int  #: how many photographs it did not explain

    @classmethod
    def of(cls, lines: pd.DataFrame) -> "Scores":
        """From the lines of one method with one setting."""
        asked = lines.pivot(index="photograph", columns="sigma", values="hits").reindex(lines.photograph.unique())
        there = asked.dropna()
        hits = np.array(there.to_numpy().tolist(), dtype=bool).reshape(*there.shape, len(THRESHOLDS))
        selection = there.index.isin(lines.photograph[lines.selection])
        return cls(tuple(there.index), tuple(there.columns), hits, selection, len(asked) - len(there))

    @property
    def can_choose(self) -> bool:
        """Whether there is a result for a photograph of the selection."""
        return bool(self.selection.any())

    def choose(self) -> tuple[int, int]:
        """Indices of blur and threshold with the least error on the selection; the first of equals. If `can_choose`."""
        return divmod(int(self.hits[self.selection].sum(0).argmax()), len(THRESHOLDS))

    def _at_blur(self, strategy: str, sigma: float | None = None) -> np.ndarray:
        """(N, K) hits at the strategy's thresholds, at one of the blurs or at that chosen on the selection."""
        blur = self.choose()[0] if sigma is None else self.sigmas.index(sigma)
        return self.hits[:, blur, STRATEGY_COLUMNS[strategy]]

    def in_sample(self, strategy: str, sigma: float | None = None) -> Estimate | None:
        """Error on all photographs at the strategy's threshold that is best for them: the paper's way.

        At one of the `sigmas`, or None for the one chosen on the selection. The interval ignores that the threshold was
        chosen; `cross_validated` accounts for it.
        """
        hits = self._at_blur(strategy, sigma)
        return tables.estimate(~hits[:, best_column(hits)])

    def by_sigma(self, strategy: str) -> Estimate:
        """(S,) error on all photographs at each blur's best threshold; the intervals are those of that threshold."""
        hits = self.hits[..., STRATEGY_COLUMNS[strategy]]
        best = hits.sum(0).argmax(1)
        return bootstrap(~np.take_along_axis(hits, best[None, :, None], 2)[..., 0])

    def by_alpha(self, strategy: str) -> Estimate:
        """(K,) error on all photographs at each of the strategy's thresholds, at the blur chosen on the selection."""
        return bootstrap(~self._at_blur(strategy))

    def cross_validated(self) -> Estimate | None:
        """Error on all photographs, with blur, threshold and strategy chosen on each half and applied to the other."""
        hits = self.hits.reshape(len(self.hits), -1)
        return bootstrap(~held_out_hits(hits)) if len(hits) > 1 else None

    @property
    def held_out_misses(self) -> pd.Series:
        """1 for a miss and 0 for a hit, by photograph outside the selection, at the blur and threshold chosen on it."""
        return pd.Series(~self.hits[:, *self.choose()], list(self.names), dtype=float)[~self.selection]


def difference(ours: Scores, other: Scores) -> Estimate | None:
    """Our error minus another's on the held-out photographs that both explained; below 0 if ours is better."""
    misses = pd.concat([ours.held_out_misses, other.held_out_misses], axis=1, join="inner")
    return tables.difference_estimate(misses[0], misses[1])


def table_scores(table: pd.DataFrame) -> dict[str, Scores]:
    """The scores of Table 1's rows by method."""
    rows = table[table.role == "table"]
    return {method: Scores.of(lines) for method, lines in rows.groupby("method", sort=False)}


def localization_table(table: pd.DataFrame, pinned: float | None = None) -> pd.DataFrame:
    """Table 1, from the experiment's table; other methods are compared with ours.

    Returns:
        By method: n, failed; passes, see `forward_passes`; sigma, chosen on the selection; the errors `value`,
        `percent`, `mean`, `best` on all photographs at the best threshold; for a pinned sigma that was tried, such as
        the paper's 20, `pinned_value` to `pinned_best`, the same there; `cross_validated`; `held_out` and
        `difference` (ours minus this method's) on the photographs outside the selection, at the blur and threshold
        chosen on it. Each is an `Estimate` or None. `paper_value` to `paper_best` are the paper's (nan for none).
    """
    scores, lines = table_scores(table), {}
    at_pinned = {} if pinned is None else {f"pinned_{name}": name for name in STRATEGY_COLUMNS}
    for method, one in scores.items():
        passes = tables.forward_passes(table[(table.role == "table") & (table.method == method)])
        lines[method] = line = {"n": len(one.names), "failed": one.failed, "passes": passes}
        if one.can_choose:
            line |= {"sigma": one.sigmas[one.choose()[0]]} | {name: one.in_sample(name) for name in STRATEGY_COLUMNS}
            if pinned in one.sigmas:
                line |= {column: one.in_sample(name, pinned) for column, name in at_pinned.items()}
            line["cross_validated"] = one.cross_validated()
            if not one.selection.all():
                line["held_out"] = tables.estimate(one.held_out_misses)
            if method != tables.OURS and (ours := scores.get(tables.OURS)) is not None and ours.can_choose:
                line["difference"] = difference(ours, one)
    chosen = ["n", "failed", "passes", "sigma", *STRATEGY_COLUMNS]
    columns = [*chosen, *at_pinned, "cross_validated", "held_out", "difference"]
    return tables.make_table(lines, columns).join(tables.paper_table("table1").add_prefix("paper_"))


def trials(table: pd.DataFrame, strategy: str = "value") -> pd.DataFrame:
    """The trials from which the profile's settings are chosen, each on n photographs (Fig. 5, top).

    Columns: role ("table" for the profile's own), method, first and last layer held, layer_weight, n, and error: the
    least over blurs and the strategy's thresholds.
    """

    def measure(rows: pd.DataFrame) -> tuple[float, ...]:
        scores = Scores.of(rows)
        errors = (~scores.hits[..., STRATEGY_COLUMNS[strategy]]).mean(0)
        return json.loads(rows.settings.iloc[0])["layer_weight"], len(scores.names), errors.min()

    tried = tables.with_own(table[table.role != "table"], table)
    return tables.by_setting(tried, "layer_weight n error", measure)
