"""Bootstrap over images: how far a number would move with other images of the same kind.

A statistic here is a function of means over images. A resample weights the images, so that the means of all resamples
are one matrix product. Estimates of the same number of images with the same seed use the same resamples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from perceptual_lib.core.errors import InputError

Statistic = Callable[[np.ndarray], np.ndarray]
ALPHA = 0.05
DECIMALS = 12  # of an estimate: behind them is what rounding left, which differs from processor to processor


def fewest(comparisons: int = 1) -> int:
    """Rows that a comparison needs, where so many are made at once: two-sided sign test, all pairs pointing one way."""
    return math.ceil(math.log2(2 * max(comparisons, 1) / ALPHA))


@dataclass(frozen=True)
class Estimate:
    """A statistic and its percentile interval, of 95 % where nothing else was asked for."""

    value: float | np.ndarray  #: (...) for a statistic of several numbers
    low: float | np.ndarray  #: of the same shape, for 95 % the 2.5th percentile over the resamples
    high: float | np.ndarray  #: for 95 % the 97.5th
    n: int  #: images that entered

    def __neg__(self) -> "Estimate":
        """The same difference, the other way round."""
        return Estimate(0.0 - self.value, 0.0 - self.high, 0.0 - self.low, self.n)

    @property
    def side(self) -> int:
        """Of a number: on which side of 0 all of the interval lies, 1 or -1; 0 where 0 is in it, or of fewer images
        than `fewest`, whose interval promises too much."""
        return 0 if self.n < fewest() else int(self.low > 0) - int(self.high < 0)


def plain(means: np.ndarray) -> np.ndarray:
    """The statistic that is the mean itself."""
    return means


@lru_cache(maxsize=8)  # the claims turn from one number of images to another
def resampling_weights(n: int, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """(resamples, n): the share of each image in samples of n images drawn with replacement; rows sum to 1."""
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    weights.flags.writeable = False  # all who ask get the same array
    return weights


def whole_rows(values: ArrayLike) -> np.ndarray:
    """The rows of values (N, ...) without nan."""
    values = np.asarray(values, dtype=np.float64)
    return values[~np.isnan(values).any(tuple(range(1, values.ndim)))]


def bootstrap(
    values: ArrayLike, statistic: Statistic = plain, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """A statistic of images, with its interval.

    A choice of the best flatters itself once more in each resample: the interval of a least error lies low, the lower
    the more nearly equal candidates there are, and can even miss the value. Values held out have no such bias.

    Args:
        values: (N, ...) numbers or bools, a row for each image; one with a nan, such as a failure, is left out whole.
        statistic: from means over images (R, ...) to (R,) or (R, ...), row by row; it is computed anew in each
            resample. For misses (N, A) at A thresholds, `lambda means: means.min(1)` is the error at the best one.
        resamples: R, at least 1, drawn with this seed.
        confidence: of the interval, in (0, 1); of K intervals with 1 - 0.05 / K each, all hold at once with 95 %.

    Raises InputError for no image without nan, or no resample.
    """
    values, means = _resample(values, resamples, seed)
    return _estimate(statistic(values.mean(0, keepdims=True))[0], statistic(means), len(values), confidence)


def crossed_bootstrap(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean (...) over images and random seeds, each image with each seed, and an interval for others of both.

    A resample draws the images and, independently, the seeds (Owen 2007, "The pigeonhole bootstrap"). With one seed it
    is `bootstrap`, and the interval does not know what another seed would change; with few seeds it knows little.
    Takes values (N, S, ...) of N images with S seeds. Raises InputError for no seed, and as `bootstrap`.
    """
    shape = np.shape(values)
    if len(shape) < 2 or shape[1] == 0:
        raise InputError(f"values must have the shape (images, seeds, ...) with a seed or more, not {shape}.")
    values, means = _resample(values, resamples, seed)  # means (R, S, ...)
    # Not by the same random numbers: as many seeds as images would be drawn as the images are.
    of_seeds = resampling_weights(values.shape[1], resamples, seed + 1)
    return _estimate(values.mean((0, 1)), np.einsum("rs,rs...->r...", of_seeds, means), len(values))


def _resample(values: ArrayLike, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The values without nan (N, ...), and their means over images (resamples, ...)."""
    values = whole_rows(values)
    if len(values) == 0 or resamples < 1:
        raise InputError(f"{len(values)} images without nan and {resamples} resamples; give at least one of each.")
    return values, np.tensordot(resampling_weights(len(values), resamples, seed), values, 1)


def _estimate(value: float | np.ndarray, resampled: np.ndarray, n: int, confidence: float = 0.95) -> Estimate:
    """With the percentiles over resamples (R, ...)."""
    tail = 50 * (1 - confidence)
    found = value, *np.percentile(resampled, [tail, 100 - tail], axis=0)
    return Estimate(*(np.round(each, DECIMALS) + 0.0 for each in found), n)  # of shares, a bound is often 0 itself
