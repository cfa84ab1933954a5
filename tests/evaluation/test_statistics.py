"""The bootstrap against closed forms, by simulation, and what it leaves out."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from perceptual_lib import InputError
from perceptual_lib.evaluation.statistics import Estimate, bootstrap, crossed_bootstrap, resampling_weights, spearman
from perceptual_lib.evaluation.tables import difference_estimate


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def best(means: np.ndarray) -> np.ndarray:
    return means.min(1)


def test_weights_are_samples_with_replacement() -> None:
    weights = resampling_weights(40, 3000)
    assert weights.shape == (3000, 40) and weights.sum(1) == pytest.approx(1)
    counts = weights * 40
    assert counts == pytest.approx(counts.round())
    assert counts.mean() == pytest.approx(1) and counts.var() == pytest.approx(1 - 1 / 40, rel=0.02)


def test_interval_of_a_mean_by_its_standard_error() -> None:
    values = 5 + 2 * normal(400)
    estimate = bootstrap(values, resamples=10_000)
    assert estimate.value == pytest.approx(values.mean()) and estimate.n == 400
    half = 1.96 * values.std() / 400**0.5
    assert [estimate.low, estimate.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.05 * half)


def test_coverage() -> None:
    """Of intervals for the share 0.3 of 100 images; 0.94 is expected of the method."""
    samples = np.random.default_rng(0).random((400, 100)) < 0.3
    estimates = [bootstrap(sample, resamples=400) for sample in samples]
    assert 0.9 <= np.mean([estimate.low <= 0.3 <= estimate.high for estimate in estimates]) <= 0.98


@pytest.mark.parametrize("seed", [51, 93, 194, 255])
def test_a_bound_that_is_0_is_0(seed: int) -> None:
    """Of thirds, whose sums are never exact, whichever way the matrix product takes; and no -0 is printed."""
    whole = np.random.default_rng(seed).integers(-3, 5, 40)
    assert np.percentile((resampling_weights(40) * 40).round().astype(int) @ whole, 2.5) == 0
    bounds = bootstrap(whole / 3).low, bootstrap(np.stack([whole / 3] * 3, 1)).low, bootstrap(-whole / 3).high
    assert all(np.all(bound == 0) and not np.signbit(bound).any() for bound in bounds)


def test_the_side_of_an_estimate() -> None:
    estimates = [Estimate(0.5, 0.1, 0.9, 6), Estimate(0.5, 0.0, 0.9, 6), Estimate(-0.5, -0.9, -0.1, 6)]
    assert [each.side for each in estimates] == [1, 0, -1] and [(-each).side for each in estimates] == [-1, 0, 1]
    assert Estimate(0.5, 0.1, 0.9, 5).side == 0  # by chance, five pairs point one way once in sixteen times
    assert -Estimate(1.0, 0.5, 2.0, 9) == Estimate(-1.0, -2.0, -0.5, 9)


def test_a_choice_is_made_anew_in_each_resample() -> None:
    misses = np.repeat([[0, 1], [1, 0]], 50, axis=0)  # each threshold misses its half
    estimate = bootstrap(misses, best)
    assert estimate.value == 0.5 and estimate.high <= 0.5  # the smaller share of two halves
    assert bootstrap(misses[:, 0]).high > 0.55  # a fixed one has bad luck too


def test_several_numbers_at_once_are_the_same_as_one_by_one() -> None:
    curves = normal(30, 4)
    together = bootstrap(curves)
    for column in range(4):
        alone = bootstrap(curves[:, column])
        found = together.value[column], together.low[column], together.high[column]
        assert found == pytest.approx((alone.value, alone.low, alone.high)) and alone.n == together.n


def test_a_paired_difference_is_tighter() -> None:
    difficulty = 3 * normal(200)
    first, second = difficulty + normal(200, seed=1), difficulty + normal(200, seed=2) + 0.5
    paired = difference_estimate(first, second)
    assert paired.value == pytest.approx((first - second).mean())
    of_differences = bootstrap(first - second)
    assert [paired.low, paired.high] == pytest.approx([of_differences.low, of_differences.high])
    assert paired.high < 0
    unpaired = [bootstrap(first), bootstrap(second)]
    assert paired.high - paired.low < 0.6 * np.hypot(*(one.high - one.low for one in unpaired))


def test_both_methods_choose_anew() -> None:
    misses = np.random.default_rng(0).random((80, 2, 6)) < 0.5
    difference = difference_estimate(misses[:, 0], misses[:, 1], best)
    assert difference.value == pytest.approx(misses[:, 0].mean(0).min() - misses[:, 1].mean(0).min())
    assert difference.low < difference.value < difference.high


def test_an_image_that_failed_is_left_out() -> None:
    values = normal(20, 3)
    failed = values.copy()
    failed[4, 1] = failed[7] = np.nan
    kept = np.delete(values, [4, 7], axis=0)
    assert bootstrap(failed, best) == bootstrap(kept, best)
    assert bootstrap(failed, best).n == 18
    other = normal(20, 3, seed=1)
    other[0] = np.nan
    both = difference_estimate(failed, other, best)
    assert both == difference_estimate(kept[1:], np.delete(other, [0, 4, 7], 0), best) and both.n == 17


def test_images_and_seeds_are_drawn_independently() -> None:
    """Against a loop that draws them one resample after the other."""
    values = normal(12, 1, 1, seed=1) + normal(1, 4, 1, seed=2) + 0.2 * normal(12, 4, 3, seed=3)
    estimate = crossed_bootstrap(values, resamples=20_000)
    random = np.random.default_rng(7)
    draws = [values[random.integers(12, size=12)][:, random.integers(4, size=4)].mean((0, 1)) for _ in range(20_000)]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert estimate.value == pytest.approx(values.mean((0, 1))) and estimate.n == 12
    assert estimate.low == pytest.approx(low, abs=0.05) and estimate.high == pytest.approx(high, abs=0.05)
    of_images = bootstrap(values.mean(1), resamples=20_000)
    assert (estimate.high - estimate.low > 1.1 * (of_images.high - of_images.low)).all()  # it knows of the seeds


def test_as_many_seeds_as_images_are_not_drawn_alike() -> None:
    values = np.eye(6)  # a resample that draws both alike has on average more of the diagonal
    resampled = crossed_bootstrap(values, resamples=20_000)
    random = np.random.default_rng(7)
    draws = [values[random.integers(6, size=6)][:, random.integers(6, size=6)].mean() for _ in range(20_000)]
    assert [resampled.low, resampled.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.03)


def test_one_seed_is_the_bootstrap_of_its_means() -> None:
    values = normal(20, 1, 3)
    values[5, 0, 1] = np.nan
    crossed, plain = crossed_bootstrap(values), bootstrap(values.mean(1))
    assert crossed.n == plain.n == 19
    for name in ("value", "low", "high"):
        assert getattr(crossed, name) == pytest.approx(getattr(plain, name))


def test_resamples_are_always_the_same() -> None:
    found = bootstrap(normal(50))
    resampling_weights.cache_clear()
    assert bootstrap(normal(50)) == found
    assert not np.array_equal(resampling_weights(50, seed=1), resampling_weights(50))


def test_rank_correlations_are_scipys() -> None:
    first, second = np.random.default_rng(0).integers(4, size=(2, 5, 30))  # with ties
    found = spearman(first[:, None], second)  # each with each
    assert found.shape == (5, 5) and found[2, 3] == pytest.approx(spearmanr(first[2], second[3]).statistic)
    assert spearman(first[0], np.ones(30)) == 0


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], np.zeros((0, 4))], ids=["none", "all failed", "no rows"])
def test_something_must_be_left(values) -> None:
    with pytest.raises(InputError, match="0 images"):
        bootstrap(values)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="0 resamples"):
        bootstrap([1.0], resamples=0)
    for confidence in (0, 1, 95, -1, np.nan):
        with pytest.raises(InputError, match="confidence is a share"):
            bootstrap([0.0, 1.0], confidence=confidence)
    for shape in ((3,), (3, 0)):
        with pytest.raises(InputError, match="a seed or more"):
            crossed_bootstrap(np.zeros(shape))
    with pytest.raises(InputError, match="0 images"):
        crossed_bootstrap(np.full((2, 3), np.nan))
