"""Verdicts from intervals: the few rules by which claims are decided.

A rule takes a sample: scores with a row for each photograph (or scene) and a column for each thing that is compared,
nan where there is none. Rows are what the bootstrap draws; comparisons are paired over the rows that both columns have.

Each rule turns the claim into leads, of which all must be above 0, or all but a few. A false claim can be reproduced by
chance only if a lead that is in truth not above 0 looks as if it were. "All" needs no correction for the number of
leads: each is tested with a 95 % interval (an intersection-union test). "All but k - 1 of K" needs intervals of
1 - 0.05 / k. A claim is not reproduced if k leads are clearly below 0, with intervals of 1 - 0.05 / (K - k + 1), since
each lead is one more chance to be below (Bonferroni's bound of a partial conjunction; Benjamini and Heller 2008). There
is no correction over claims: of those near their limit, one in twenty may be decided wrongly by chance.

The bootstrap interval of a handful of rows is too narrow. So a comparison needs as many rows as a sign test would to
tell two things apart if all pairs point one way: six rows for one comparison, ten for each of sixteen. With fewer rows,
or too few columns, a rule raises `MissingData`. Ties count as rows: where hardly any row differs, an interval promises
more than a sign test would.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.statistics import ALPHA, Estimate, Statistic, bootstrap, fewest, plain

POWER = 0.8  # of a test with the number of rows that is said to decide an undecided claim
RESAMPLES = 10_000  # so that a thousandth of them is still ten
EXCEPTIONS = 10  # "almost all" allows one exception in so many
LEAST_BLUR = 1.0  # the least blur that the paper tried, in pixels
MOST_ROWS = 1_000_000  # a number of rows from which on it is not worth telling
LEFT_OUT = "left out"  # an attribute of a sample: column -> what is missing from the mean in that column

Leads = Mapping[str, Estimate]


class Verdict(StrEnum):
    """The outcome of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided at this n"
    NEEDS_DATA = "needs data that is not here"


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim."""

    verdict: Verdict  #: the outcome
    measured: str  #: the result in words, with the interval that decides "reproduced"; or why data are missing
    n: int  #: photographs or scenes of the smallest comparison, 0 without one
    needed: int = 0
    """Photographs or scenes that would decide an undecided claim with a power of 80 %, if means and variances stay as
    they are here; 0 where it is decided, or from a million on."""
    missing: tuple[str, ...] = ()  #: what the claim also speaks of, but is not here or on too few rows; in `measured`


class MissingData(InputError):
    """A table lacks what a claim is about; the sentence says what."""


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

    A rival is clearly ahead if the whole interval of our lead lies below -margin, clearly behind if it lies above.
    Reproduced: all rivals but at most rank - 1 are clearly behind. Not reproduced: `rank` of them or more are clearly
    ahead. Undecided: anything else. So a better place than the k-th reproduces "k-th".

    The margin is 0 if the paper says better, best or second; a hundredth for "joint", equality to two decimals; a
    twentieth for "comparable" and "competitive". A rival that is not here, or on too few rows, could be ahead: unless
    the claim is decided without that rival, it needs data.

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
    gaps = gaps.loc[:, gaps.notna().sum() >= fewest(len(rivals))]
    if gaps.empty:
        raise MissingData(f"{ours} and {', '.join(rivals) or 'a rival'}, {fewest(len(rivals))} rows of both")
    judged = _judge(lambda comparisons: _intervals(gaps + margin, comparisons), rank, len(rivals))
    closest = min(judged.leads, key=lambda name: judged.leads[name].value)
    means = scores[[ours, closest]].dropna().mean()
    measured = f"{ours} {means[ours]:.3f}, {closest} {means[closest]:.3f}, "
    measured += f"a lead of {_words(judged.leads[closest], margin)}"
    if len(rivals) > 1:
        untold = [name for name in gaps if name not in judged.above + judged.below]
        ahead, behind = (f"{100 * (1 - ALPHA / count):.4g} %" for count in (rank, len(rivals) - rank + 1))
        measured = (
            f"clearly ahead of {_count(judged.above)} (with {ahead}, as the interval), clearly behind "
            f"{_count(judged.below)} (with {behind}), undecided against {_count(untold)}; the strongest: {measured}"
        )
    if margin:
        measured += f"; a lead of less than {margin:g} does not count"
    missing = [name for name in rivals if name not in gaps]
    missing += [part for name in both for part in scores.attrs.get(LEFT_OUT, {}).get(name, ())]
    return judged.finding(measured, missing)


def trend(scores: pd.DataFrame, *, falls: bool = False) -> Finding:
    """Rising or falling with what the columns are ordered by: the line fitted to each row, from its start to its end.

    Reproduced: the interval of its mean rise lies on the side that the claim says. Not reproduced: on the other side.
    Undecided: it contains 0.
    """
    rows = scores.dropna()
    if len(scores.columns) < 3 or len(rows) < fewest():
        raise MissingData(f"three steps or more on {fewest()} rows")
    positions = np.linspace(-0.5, 0.5, len(rows.columns))
    rises = rows @ positions / (positions @ positions)
    judged = _judge(lambda _: {"rise": _interval(-rises if falls else rises)})
    ends = ", ".join(f"{mean:.3f} at {step}" for step, mean in rows.mean().iloc[[0, -1]].items())
    return judged.finding(f"{ends}; fitted rise {_words(_interval(rises))}")


def saturates(scores: pd.DataFrame, at: float, *, margin: float, lower: bool = False) -> Finding:
    """More blur improves the scores up to a blur, and no longer beyond it.

    Judged at the least blur from `at` on. Reproduced: it is better than every blur from 1 to half of `at` by clearly
    more than the margin, and clearly no larger blur is better than it by as much. Not reproduced: a small blur clearly
    comes within the margin, as on a curve that is flat all along, or a larger one is clearly better by more. Undecided:
    anything else.

    Args:
        scores: (N, sigmas), the columns being blurs in pixels.
        at: the blur that the claim names.
        margin: what counts as no change.
        lower: as for `place`.
    """
    sigmas = sorted(sigma for sigma in scores if sigma >= LEAST_BLUR)
    small, rest = [s for s in sigmas if s <= at / 2], [s for s in sigmas if s >= at]
    rows = scores[small + rest].dropna()
    if not small or len(rest) < 2 or len(rows) < fewest(len(small) + len(rest) - 1):
        raise MissingData(f"blurs from {LEAST_BLUR:g} to {at / 2:g} and two from {at:g} on, on enough rows")
    allowed = pd.Series({sigma: -margin if sigma in small else margin for sigma in small + rest[1:]})
    leads = rows[allowed.index].rsub(rows[rest[0]], axis=0) * (-1 if lower else 1) + allowed
    judged = _judge(lambda comparisons: _intervals(leads, comparisons))
    means = rows.mean()
    best = means.idxmin() if lower else means.idxmax()
    weakest = min(judged.leads, key=lambda sigma: judged.leads[sigma].value)
    measured = f"{means[rest[0]]:.3f} at {rest[0]:g}, best {means[best]:.3f} at {best:g}; better than at {weakest:g} "
    measured += f"by {_words(judged.leads[weakest], allowed[weakest])}; clearly against it: "
    measured += f"{', '.join(f'{sigma:g}' for sigma in judged.below) or 'none'}; {margin:g} counts as no change"
    return judged.finding(measured)


def almost_all(gains: pd.DataFrame) -> Finding:
    """Nine columns in ten, or more, with a mean above 0.

    Reproduced: so many are clearly above. Not reproduced: more than the tenth is clearly below. Undecided: anything
    else. Columns that lack half of the rows or more are left out.
    """
    columns, gains = gains.columns, on_most_rows(gains)
    count = len(gains.columns)
    if count < 3 or gains.notna().sum().min() < fewest(count):
        raise MissingData(f"three of them, each on {fewest(max(3, count))} rows")
    judged = _judge(lambda comparisons: _intervals(gains, comparisons), 1 + count // EXCEPTIONS)
    measured = f"{len(judged.above)} of {count} clearly above 0, {_count(list(map(str, judged.below)))} clearly below; "
    measured += f"{int((gains.mean() > 0).sum())} with a mean above 0"
    return judged.finding(measured, [str(name) for name in columns if name not in gains])


def on_most_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The columns that have a score in more than half of the rows."""
    return scores.loc[:, scores.notna().mean() > 0.5]


def steadier(scores: pd.DataFrame) -> Finding:
    """Whether one choice matters less than another: the spread (standard deviation) of the mean scores over the first
    group of columns, minus the spread over the second.

    Reproduced: the interval of the difference lies below 0. Not reproduced: above. Undecided: it contains 0.
    """
    rows = scores.dropna()
    groups = rows.columns.get_level_values(0)  # a column is a pair of a group's name and a name in it
    names = groups.unique()
    if len(names) != 2 or groups.value_counts().min() < 3 or len(rows) < fewest():
        raise MissingData(f"three scores or more of two groups on {fewest()} rows")
    first, second = (groups == name for name in names)
    spread = _interval(rows, statistic=lambda means: means[:, second].std(1) - means[:, first].std(1))
    means = rows.mean().to_numpy()
    measured = f"spread over {first.sum()} {names[0]} {means[first].std():.3f}, over {second.sum()} {names[1]} "
    measured += f"{means[second].std():.3f}, a lead of {_words(spread)}"
    return _judge(lambda _: {"spread": spread}).finding(measured)


def alike(scores: pd.DataFrame, first: str, second: str, *, margin: float) -> Finding:
    """No difference beyond a margin.

    Reproduced: the interval of the difference lies within the margin on both sides. Not reproduced: wholly outside.
    Undecided: anything else.
    """
    rows = scores.reindex(columns=[first, second]).dropna()
    if len(rows) < fewest():
        raise MissingData(f"{first} and {second} on {fewest()} rows or more")
    gaps = rows[first] - rows[second]
    sides = pd.DataFrame({"above": margin - gaps, "below": margin + gaps})
    means = rows.mean()
    measured = f"{first} {means[first]:.3f}, {second} {means[second]:.3f}, difference {_words(_interval(gaps))}"
    return _judge(lambda comparisons: _intervals(sides, comparisons)).finding(measured)


RULES = {rule.__name__: rule for rule in (place, trend, saturates, almost_all, steadier, alike)}
"""All rules by name; a rule's docstring defines its verdicts."""


@dataclass(frozen=True)
class _Judged:
    """The verdict from leads, their intervals (95 % if all must be above 0), and those clearly above and below 0."""

    verdict: Verdict
    leads: Leads
    above: list[str]
    below: list[str]
    needed: int

    def finding(self, measured: str, missing: Sequence[str] = ()) -> Finding:
        n = min(lead.n for lead in self.leads.values())
        measured += f"; not here, or on too few rows: {', '.join(missing)}" if missing else ""
        return Finding(self.verdict, measured, n, self.needed, tuple(missing))


def _judge(leads: Callable[[int], Leads], rank: int = 1, count: int | None = None) -> _Judged:
    """Whether all leads but rank - 1 are above 0. `leads(comparisons)` gives them with Bonferroni intervals for so many
    comparisons. The claim is about `count` leads; those that are not given could be on either side."""
    asked = leads(rank)
    count = count or len(asked)
    wanted, against = count - rank + 1, leads(count - rank + 1)
    above = [name for name, lead in asked.items() if lead.low > 0]
    below = [name for name, lead in against.items() if lead.high < 0]
    needed = 0
    if len(above) >= wanted:
        verdict = Verdict.REPRODUCED
    elif len(below) >= rank:
        verdict = Verdict.NOT_REPRODUCED
    elif len(asked) < count:
        verdict = Verdict.NEEDS_DATA
    else:
        verdict = Verdict.UNDECIDED
        for_it = sorted(_rows_needed(lead, rank) for lead in asked.values() if lead.value > 0)
        against_it = sorted(_rows_needed(lead, wanted) for lead in against.values() if lead.value < 0)
        needed = (for_it[wanted - 1 :] or against_it[rank - 1 :] or [0])[0]
    return _Judged(verdict, asked, above, below, needed if needed < MOST_ROWS else 0)


def _rows_needed(lead: Estimate, comparisons: int) -> int:
    """Rows that a test needs to find such a lead, not 0, clearly on its side of 0 with `POWER`, by normal theory."""
    quantile = NormalDist().inv_cdf(1 - ALPHA / comparisons / 2)
    error = (lead.high - lead.low) / 2 / quantile
    return math.ceil(lead.n * ((quantile + NormalDist().inv_cdf(POWER)) * error / lead.value) ** 2)


def _interval(values: pd.Series | pd.DataFrame, comparisons: int = 1, statistic: Statistic = plain) -> Estimate:
    """Bootstrap interval of a statistic, corrected (Bonferroni) for so many comparisons."""
    return bootstrap(values, statistic, resamples=RESAMPLES, confidence=1 - ALPHA / comparisons)


def _intervals(gaps: pd.DataFrame, comparisons: int) -> dict[str, Estimate]:
    """The interval of each column's mean; columns with the same rows are bootstrapped together, in a matrix product."""
    found = {}
    for names in gaps.columns.groupby([tuple(gaps[name].notna()) for name in gaps]).values():
        together = _interval(gaps[names], comparisons)
        columns = zip(names, together.value, together.low, together.high, strict=True)
        found |= {name: Estimate(value, low, high, together.n) for name, value, low, high in columns}
    return {name: found[name] for name in gaps}


def _words(lead: Estimate, margin: float = 0.0) -> str:
    """A lead in words, less the margin that was added to it."""
    value, low, high = (number - margin for number in (lead.value, lead.low, lead.high))
    return f"{value:.3f} ({low:.3f} to {high:.3f}; n = {lead.n})"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if 0 < len(names) < 4 else str(len(names))
