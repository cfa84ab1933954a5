"""Verdicts from intervals: the few rules by which claims are decided.

A rule takes a sample: scores with a row for each photograph (or scene) and a column for each thing that is compared,
nan where there is none. Rows are what the bootstrap draws; comparisons are paired over the rows that both columns have.
All intervals of a rule hold at once with 95 %: with K comparisons each has the confidence 1 - 0.05 / K (Bonferroni).
Claims are not corrected for each other: of those near their limit one in twenty may be decided wrongly by chance.

A bootstrap of a handful of rows promises too much. So a comparison needs as many as a sign test would to tell two
things apart with all pairs pointing one way: six rows for one, ten for each of sixteen. With fewer rows, or too few
columns, the data are not here, and a rule raises `MissingData`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.statistics import Estimate, Statistic, bootstrap, plain

ALPHA = 0.05
RESAMPLES = 10_000  # so that a thousandth of them is still ten
MOST = 0.9  # the share that "almost all" begins with
LEAST_BLUR = 1.0  # that the paper tried


class Verdict(StrEnum):
    """What a claim comes to."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided at this n"
    NEEDS_DATA = "needs data that is not here"


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim."""

    verdict: Verdict  #: what it comes to
    measured: str  #: in words, with the 95 % interval; the reason where data are missing
    n: int  #: photographs or scenes of the smallest comparison, 0 without one


class MissingData(InputError):
    """A table lacks what a claim is about; the sentence says what."""


def fewest(comparisons: int = 1) -> int:
    """Rows that a comparison needs, where so many are made at once: two-sided sign test, all pairs pointing one way."""
    return math.ceil(math.log2(2 * max(comparisons, 1) / ALPHA))


def place(
    scores: pd.DataFrame,
    ours: str,
    rivals: Sequence[str] | None = None,
    *,
    rank: int = 1,
    margin: float = 0.0,
    lower: bool = False,
) -> Finding:
    """Best, k-th best, or better than one other: the paired lead over each rival.

    A rival is clearly ahead where the whole interval of our lead lies below -margin, clearly behind where it lies
    above. Reproduced: all rivals but rank - 1, or fewer, are clearly behind. Not reproduced: `rank` of them or more are
    clearly ahead. Undecided: anything else. So a better place than the k-th reproduces "k-th".

    The margin is 0 where the paper says better, best or second; a hundredth for "joint", equality to two decimals; a
    twentieth for "comparable" and "competitive". A rival that is not here, or on too few rows, could be ahead: then the
    claim needs data, if it is not refuted without.

    Args:
        ours: the column that the claim is about.
        rivals: the columns it is compared with, without ours if that is among them; None for all.
        rank: the place claimed, 1 for the best.
        margin: how far a rival may be ahead and still count as behind.
        lower: whether less is better.
    """
    rivals = [name for name in (scores if rivals is None else rivals) if name != ours]
    both = scores.reindex(columns=[ours, *rivals])
    gaps = both[rivals].rsub(both[ours], axis=0) * (-1 if lower else 1)
    leads = _intervals(gaps.loc[:, gaps.notna().sum() >= fewest(len(rivals))], len(rivals))
    if not leads:
        raise MissingData(f"{ours} and {', '.join(rivals) or 'a rival'}, {fewest(len(rivals))} rows of both")
    ahead = [name for name, lead in leads.items() if lead.high < -margin]
    behind = [name for name, lead in leads.items() if lead.low > -margin]
    missing = [name for name in rivals if name not in leads]
    closest = min(leads, key=lambda name: leads[name].value)
    means = scores[[ours, closest]].dropna().mean()
    measured = f"{ours} {means[ours]:.3f}, {closest} {means[closest]:.3f}, "
    measured += f"{'lower' if lower else 'higher'} by {_words(leads[closest])}"
    if len(rivals) > 1:
        untold = [name for name in leads if name not in ahead + behind]
        measured = (
            f"clearly ahead of {_count(behind)}, clearly behind {_count(ahead)}, undecided against "
            f"{_count(untold)}; the strongest: {measured}"
        )
    if margin:
        measured += f"; a lead of less than {margin:g} does not count"
    if missing:
        measured += f"; not here, or on too few rows: {', '.join(missing)}"
    verdict = _decide(len(leads) - len(behind) < rank, len(ahead) >= rank)
    if missing and verdict is not Verdict.NOT_REPRODUCED:
        verdict = Verdict.NEEDS_DATA
    return Finding(verdict, measured, min(lead.n for lead in leads.values()))


def trend(scores: pd.DataFrame, *, falls: bool = False) -> Finding:
    """Rising or falling with what the columns are ordered by: the line fitted to each row, from its start to its end.

    Reproduced: the interval of its mean rise lies on the side that the claim says. Not reproduced: on the other side.
    Undecided: it contains 0.
    """
    rows = scores.dropna()
    if len(scores.columns) < 3 or len(rows) < fewest():
        raise MissingData(f"three steps or more on {fewest()} rows")
    positions = np.linspace(-0.5, 0.5, len(rows.columns))
    rise = _interval(rows @ positions / (positions @ positions))
    first, last = rows.columns[0], rows.columns[-1]
    means = rows.mean()
    measured = f"{means[first]:.3f} at {first}, {means[last]:.3f} at {last}; fitted rise {_words(rise)}"
    up, down = rise.low > 0, rise.high < 0
    return Finding(_decide(down if falls else up, up if falls else down), measured, rise.n)


def saturates(scores: pd.DataFrame, at: float, *, lower: bool = False) -> Finding:
    """No more to be gained beyond a blur, and something up to it.

    Judged at the least blur from `at` on. Reproduced: it is clearly better than every blur from 1 to half of `at`, and
    no larger one is clearly better. Not reproduced: a larger one is clearly better, or one of the small ones.
    Undecided: anything else, such as a curve that is flat all along.

    Args:
        scores: (N, sigmas), the columns being blurs in pixels.
        at: the blur that the claim names.
        lower: as for `place`.
    """
    sigmas = sorted(sigma for sigma in scores if sigma >= LEAST_BLUR)
    small, rest = [s for s in sigmas if s <= at / 2], [s for s in sigmas if s >= at]
    rows = scores[small + rest].dropna()
    comparisons = len(small) + len(rest) - 1
    if not small or len(rest) < 2 or len(rows) < fewest(comparisons):
        raise MissingData(f"blurs from {LEAST_BLUR:g} to {at / 2:g} and two from {at:g} on, on enough rows")
    gains = _intervals(rows[small + rest[1:]].rsub(rows[rest[0]], axis=0) * (-1 if lower else 1), comparisons)
    beyond = [sigma for sigma in gains if gains[sigma].high < 0]
    means = rows.mean()
    best = means.idxmin() if lower else means.idxmax()
    weakest = min(small, key=lambda sigma: gains[sigma].low)
    measured = f"{means[rest[0]]:.3f} at {rest[0]:g}, best {means[best]:.3f} at {best:g}; "
    measured += f"better than at {weakest:g} by {_words(gains[weakest])}; clearly better elsewhere: "
    measured += ", ".join(f"{sigma:g}" for sigma in beyond) or "none"
    gained = all(gains[sigma].low > 0 for sigma in small)
    return Finding(_decide(gained and not beyond, bool(beyond)), measured, len(rows))


def almost_all(gains: pd.DataFrame) -> Finding:
    """Nine columns in ten, or more, with a mean above 0.

    Reproduced: so many are clearly above. Not reproduced: more than the tenth is clearly below. Undecided: anything
    else. Columns that lack half of the rows or more are left out.
    """
    gains = on_most_rows(gains)
    count = len(gains.columns)
    if count < 3 or gains.notna().sum().min() < fewest(count):
        raise MissingData(f"three of them, each on {fewest(max(3, count))} rows")
    found = _intervals(gains, count)
    above = [name for name, gain in found.items() if gain.low > 0]
    below = [name for name, gain in found.items() if gain.high < 0]
    measured = f"of {count} {len(above)} clearly above 0, clearly below {_count([str(name) for name in below])}; "
    measured += f"{int((gains.mean() > 0).sum())} with a mean above 0"
    verdict = _decide(len(above) >= MOST * count, count - len(below) < MOST * count)
    return Finding(verdict, measured, min(gain.n for gain in found.values()))


def on_most_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The columns that have more than half of the rows."""
    return scores.loc[:, scores.notna().mean() > 0.5]


def steadier(scores: pd.DataFrame) -> Finding:
    """Whether one choice matters less than another: the spread (standard deviation) of the mean scores over the first
    group of columns less that over the second.

    Reproduced: the interval of the difference lies below 0. Not reproduced: above. Undecided: it contains 0.
    """
    rows = scores.dropna()
    groups = rows.columns.get_level_values(0)  # a column is a pair of a group's name and a name in it
    names = groups.unique()
    if len(names) != 2 or groups.value_counts().min() < 3 or len(rows) < fewest():
        raise MissingData(f"three scores or more of two groups on {fewest()} rows")
    first, second = (groups == name for name in names)
    spread = _interval(rows, statistic=lambda means: means[:, first].std(1) - means[:, second].std(1))
    means = rows.mean().to_numpy()
    measured = f"spread over {first.sum()} {names[0]} {means[first].std():.3f}, over {second.sum()} {names[1]} "
    measured += f"{means[second].std():.3f}, difference {_words(spread)}"
    return Finding(_decide(spread.high < 0, spread.low > 0), measured, spread.n)


def alike(scores: pd.DataFrame, first: str, second: str, *, margin: float) -> Finding:
    """No difference beyond a margin.

    Reproduced: the interval of the difference lies within the margin on both sides. Not reproduced: wholly outside.
    Undecided: anything else.
    """
    rows = scores.reindex(columns=[first, second]).dropna()
    if len(rows) < fewest():
        raise MissingData(f"{first} and {second} on {fewest()} rows or more")
    difference = _interval(rows[first] - rows[second])
    means = rows.mean()
    measured = f"{first} {means[first]:.3f}, {second} {means[second]:.3f}, difference {_words(difference)}"
    inside = -margin <= difference.low and difference.high <= margin
    outside = difference.low > margin or difference.high < -margin
    return Finding(_decide(inside, outside), measured, difference.n)


RULES = {rule.__name__: rule for rule in (place, trend, saturates, almost_all, steadier, alike)}
"""All rules by name; their docstrings say when they find what."""


def _interval(values: pd.Series | pd.DataFrame, comparisons: int = 1, statistic: Statistic = plain) -> Estimate:
    """Of one of so many comparisons."""
    return bootstrap(values, statistic, resamples=RESAMPLES, confidence=1 - ALPHA / comparisons)


def _intervals(gaps: pd.DataFrame, comparisons: int) -> dict[str, Estimate]:
    """Of each column. Those that have the same rows are one matrix product, whose last bits may decide about a 0."""
    found = {}
    for names in gaps.columns.groupby([tuple(gaps[name].notna()) for name in gaps]).values():
        together = _interval(gaps[names], comparisons)
        columns = zip(names, together.value, together.low, together.high, strict=True)
        found |= {name: Estimate(value, low, high, together.n) for name, value, low, high in columns}
    return {name: found[name] for name in gaps}


def _decide(reproduced: bool, contradicted: bool) -> Verdict:
    if reproduced:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if contradicted else Verdict.UNDECIDED


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}; n = {estimate.n})"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if 0 < len(names) < 4 else str(len(names))
