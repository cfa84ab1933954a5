"""Bootstrap over images: how far a number would move with other images of the same kind.

A statistic here is a function of means over images. A resample weights the images, so that the means of all resamples
are one matrix product. Estimates of the same number of images use the same resamples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from perceptual_lib.core.errors import InputError

Statistic = Callable[[np.ndarray], np.ndarray]
ALPHA = 0.05
DECIMALS = 12  # of an estimate: further digits are rounding errors, which differ from processor to processor


def fewest(comparisons: int = 1) -> int:
    """Fewest rows by which one of so many comparisons can be significant (two-sided sign test, all pairs one way)."""
    return math.ceil(math.log2(2 * max(comparisons, 1) / ALPHA))


@dataclass(frozen=True)
class Estimate:
    """A statistic and its percentile interval, of 95 % by default."""

    value: float | np.ndarray  #: (...) for a statistic of several numbers
    low: float | np.ndarray  #: of the same shape, for 95 % the 2.5th percentile over the resamples
    high: float | np.ndarray  #: for 95 % the 97.5th
    n: int  #: images that entered

    def __neg__(self) -> "Estimate":
        """The same difference, the other way round."""
        return Estimate(0.0 - self.value, 0.0 - self.high, 0.0 - self.low, self.n)

    @property
    def side(self) -> int:
        """For a single number, the side of 0 on which the whole interval lies, 1 or -1; 0 if it contains 0, or
        if there are fewer images than `fewest`, as such an interval is overconfident."""
        return 0 if self.n < fewest() else int(self.low > 0) - int(self.high < 0)


def plain(means: np.ndarray) -> np.ndarray:
    """The statistic that is the mean itself."""
    return means


@lru_cache(maxsize=8)  # the claims alternate between several numbers of images
def resampling_weights(n: int, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """(resamples, n): the share of each image in samples of n images drawn with replacement; rows sum to 1."""
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    weights.flags.writeable = False  # it is cached: all callers share it
    return weights


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(...) in [-1, 1], the rank correlation over the last axis; 0 where one of the two is constant."""
    first, second = (rankdata(each, axis=-1) for each in (first, second))
    first, second = (ranks - ranks.mean(-1, keepdims=True) for ranks in (first, second))
    size = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return (first * second).sum(-1) / np.where(size > 0, size, 1)


def whole_rows(values: ArrayLike) -> np.ndarray:
    """The rows of values (N, ...) without nan."""
    values = np.asarray(values, dtype=np.float64)
    return values[~np.isnan(values).any(tuple(range(1, values.ndim)))]


def bootstrap(
    values: ArrayLike, statistic: Statistic = plain, *, resamples: int = 2000, confidence: float = 0.95
) -> Estimate:
    """A statistic of images, with its interval.

    A statistic that chooses the best is optimistic once more in each resample: the interval of a least error lies too
    low, the lower the more candidates are nearly equal, and can even miss the value. Held-out values have no such bias.

    Args:
        values: (N, ...) numbers or bools, a row for each image; a row with a nan, such as a failure, is left out.
        statistic: maps means over images (R, ...) to (R,) or (R, ...), row by row; it is computed anew in each
            resample. For misses (N, A) at A thresholds, `lambda means: means.min(1)` is the error at the best one.
        resamples: R, at least 1, drawn with a fixed seed.
        confidence: of the interval, in (0, 1); K intervals at 1 - 0.05 / K each hold together with 95 % (Bonferroni).

    Raises InputError if no image is free of nan, resamples is below 1, or confidence is not in (0, 1).
    """
    values, means = _resample(values, resamples)
    return _estimate(statistic(values.mean(0, keepdims=True))[0], statistic(means), len(values), confidence)


def crossed_bootstrap(values: ArrayLike, *, resamples: int = 2000) -> Estimate:
    """The mean (...) over images and random seeds, each image with each seed, and its interval for others of both.

    A resample draws the images and, independently, the seeds (Owen 2007, "The pigeonhole bootstrap"). With one seed it
    is `bootstrap`, whose interval ignores how results vary between seeds; with few seeds it captures little of that.
    Takes values (N, S, ...) of N images with S seeds. Raises InputError for no seed, and as `bootstrap`.
    """
    shape = np.shape(values)
    if len(shape) < 2 or shape[1] == 0:
        raise InputError(f"values must have the shape (images, seeds, ...) with a seed or more, not {shape}.")
    values, means = _resample(values, resamples)  # means (R, S, ...)
    # From other random numbers: else, if there are as many seeds as images, both would be drawn alike.
    of_seeds = resampling_weights(values.shape[1], resamples, seed=1)
    return _estimate(values.mean((0, 1)), np.einsum("rs,rs...->r...", of_seeds, means), len(values))


def _resample(values: ArrayLike, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of values without nan (N, ...), and their means over the images of each resample (resamples, ...)."""
    values = whole_rows(values)
    if len(values) == 0 or resamples < 1:
        raise InputError(f"{len(values)} images without nan and {resamples} resamples; give at least one of each.")
    return values, np.tensordot(resampling_weights(len(values), resamples), values, 1)


def _estimate(value: float | np.ndarray, resampled: np.ndarray, n: int, confidence: float = 0.95) -> Estimate:
    """A value with its interval, percentiles over resamples (R, ...)."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is a share above 0 and below 1, not {confidence}.")
    tail = 50 * (1 - confidence)
    found = value, *np.percentile(resampled, [tail, 100 - tail], axis=0)
    return Estimate(*(np.round(each, DECIMALS) + 0.0 for each in found), n)  # many bounds are exactly 0, and none is -0
