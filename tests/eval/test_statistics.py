import itertools

import numpy as np
import pytest
import scipy.stats

from metta.eval import statistics


def random_scores(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * 3 + 1


def test_mean_and_interquartile_mean_by_hand():
    """A trimmed mean that cuts values instead of floor(N / 4) of them, or cuts one side only."""
    assert statistics.mean([1, 2, 6]) == 3
    assert statistics.interquartile_mean([100, 1, 2, 3, -50, 4, 5, 6]) == (2 + 3 + 4 + 5) / 4
    assert statistics.interquartile_mean([7, 1, 4]) == 4  # floor(3 / 4) = 0: nothing is cut
    assert statistics.interquartile_mean([[0, 1], [9, 3]]) == 2
    assert statistics.interquartile_means([[0, 1, 3, 9], [4, 4, 4, 4]]).tolist() == [2, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 99, 100, 101])
def test_interquartile_mean_is_scipys_trimmed_mean(size):
    """Another rounding of N / 4 than the reference's."""
    scores = random_scores(size)
    assert statistics.interquartile_mean(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25), rel=1e-12)


def test_interval_by_hand():
    """Wrong percentiles, or an interval of the scores instead of one of their mean.

    Of two scores 0 and 1, a resample's mean is 0 in 1/4 of cases and 1 in 1/4: both ends are inside 95%.
    Of 0, 0, 0, 1 it is 0 in (3/4)^4 = 31.6%, at least 0.75 in 5.1% and 1 in 0.4%: the interval is 0 to 0.75.
    """
    assert statistics.bootstrap_interval([0, 1]) == (0, 1)
    assert statistics.bootstrap_interval([0, 0, 0, 1]) == (0, 0.75)
    assert statistics.bootstrap_interval([7.3]) == (7.3, 7.3)


def test_equal_scores_have_no_width():
    """Rounding in the matrix product that puts the mean outside its own interval."""
    for score in (0.1, 1 / 3, 1e6 + 0.1, -7.7):
        scores = [score] * 100
        assert statistics.bootstrap_interval(scores) == (score, score)
        assert statistics.mean(scores) == statistics.interquartile_mean(scores) == score


def test_interval_against_all_resamples():
    """Resamples that are not draws with replacement: all 5^5 of five scores give the exact interval."""
    scores = np.array([0.0, 1.0, 4.0, 9.0, 30.0])
    every = [np.mean(drawn) for drawn in itertools.product(scores, repeat=5)]
    assert statistics.bootstrap_interval(scores) == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.8)


def test_interval_against_scipy():
    """An interval that is off by a factor (a standard error without its root, say)."""
    scores = random_scores(60)
    other = scipy.stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    width = other.confidence_interval.high - other.confidence_interval.low
    assert statistics.bootstrap_interval(scores) == pytest.approx(other.confidence_interval, abs=0.05 * width)


def test_interval_follows_scale_and_shift():
    """Relation: the interval of a * x + b is a times the interval of x, plus b, and does not depend on chance."""
    scores = random_scores(40)
    low, high = statistics.bootstrap_interval(scores)
    assert statistics.bootstrap_interval(3 * scores + 5) == pytest.approx((3 * low + 5, 3 * high + 5), rel=1e-9)
    assert statistics.bootstrap_interval(scores) == (low, high)


def test_rows_are_independent_and_large_samples_too(monkeypatch):
    """Rows mixed up in the matrix product, or a sample too large for one block computed otherwise."""
    scores = random_scores(6, 50)
    low, high = statistics.bootstrap_intervals(scores)
    for row, interval in zip(scores, zip(low, high, strict=True), strict=True):
        assert statistics.bootstrap_interval(row) == pytest.approx(interval, rel=1e-9)
    monkeypatch.setattr(statistics, "BLOCK_VALUES", 50 * 64)
    blocked = statistics.bootstrap_intervals(scores)
    assert np.allclose(blocked, (low, high), atol=0.15 * (high - low).max())
    assert statistics.iqm_stratified(scores).low < statistics.iqm_stratified(scores).high


def test_iqm_intervals_against_resampling_in_the_open():
    """The shortcut over cumulative counts against drawing and trimming each resample for real, on the same draws."""
    scores = random_scores(5, 8)
    counts = statistics._small(5)
    real = [scipy.stats.trim_mean(np.repeat(scores, row.astype(int), axis=0).ravel(), 0.25) for row in counts]
    estimate = statistics.iqm_over_runs(scores)
    assert estimate.value == pytest.approx(scipy.stats.trim_mean(scores.ravel(), 0.25), rel=1e-12)
    assert estimate[1:] == pytest.approx(np.quantile(real, [0.025, 0.975]), rel=1e-9)


def test_stratified_draws_inside_each_stratum():
    """A bootstrap that moves scores between tasks: where runs agree in each task, nothing is uncertain."""
    agree = np.tile([0.0, 10.0, 20.0, 30.0], (6, 1))
    assert statistics.iqm_stratified(agree) == (15, 15, 15)
    assert statistics.iqm_stratified(agree.T).low < 15 < statistics.iqm_stratified(agree.T).high


def test_stratified_against_scipy():
    """An interval of another width than a stratified bootstrap by another hand."""
    scores = random_scores(12, 3) + np.array([0.0, 1.0, 2.0])
    rng = np.random.default_rng(5)
    real = [
        scipy.stats.trim_mean(np.stack([column[rng.integers(12, size=12)] for column in scores.T]).ravel(), 0.25)
        for _ in range(2000)
    ]
    low, high = np.quantile(real, [0.025, 0.975])
    assert statistics.iqm_stratified(scores)[1:] == pytest.approx((low, high), abs=0.1 * (high - low))


def test_runs_are_the_unit_not_episodes():
    """Three runs of 100 equal episodes each counted as 300 independent results: an interval far too narrow."""
    scores = np.repeat([[0.0], [5.0], [10.0]], 100, axis=1)
    over_runs = statistics.iqm_over_runs(scores)
    assert over_runs.value == 5 and over_runs.low == 0 and over_runs.high == 10
    stratified = statistics.iqm_stratified(scores)
    assert stratified.high - stratified.low < 4


def test_one_stratum_is_the_plain_bootstrap():
    """Relation: with one score for each run, all bootstraps of the interquartile mean are the same one."""
    scores = random_scores(20, 1)
    assert statistics.iqm_stratified(scores) == pytest.approx(statistics.iqm_over_runs(scores), rel=1e-9)
    assert statistics.iqm_over_runs(scores) == statistics.iqm_over_runs(scores.T)
    few = random_scores(3, 1)  # three values: nothing is trimmed, the interquartile mean is the mean
    assert statistics.iqm_over_runs(few)[1:] == pytest.approx(statistics.bootstrap_interval(few), rel=1e-9)


def test_probability_of_improvement_by_hand():
    """Ties counted as losses, or scores compared across different episodes.

    a wins the first pair, ties the second, loses the third and fourth: (1 + 0.5) / 4.
    """
    assert statistics.probability_of_improvement([5, 2, 1, 0], [4, 2, 3, 9]).value == 1.5 / 4
    assert statistics.probability_of_improvement([1, 2, 3], [0, 1, 2]) == (1, 1, 1)
    two, one = [[5.0, 0.0], [3.0, 2.0]], [[4.0, 1.0]]  # wins, losses: 5 > 4, 0 < 1, 3 < 4, 2 > 1
    assert statistics.probability_of_improvement(two, one).value == 0.5


@pytest.mark.parametrize("shape_a, shape_b", [((1, 30), (1, 30)), ((5, 30), (4, 30))])
def test_probability_of_improvement_is_symmetric(shape_a, shape_b):
    """Relation: P(A > B) + P(B > A) = 1, and the intervals mirror each other."""
    a, b = random_scores(*shape_a).round(), random_scores(*shape_b, seed=1).round()
    forth, back = statistics.probability_of_improvement(a, b), statistics.probability_of_improvement(b, a)
    assert forth.value + back.value == pytest.approx(1, abs=1e-12)
    assert forth.low <= forth.value <= forth.high
    assert forth.low + back.high == pytest.approx(1, abs=0.03)


def test_probability_of_improvement_against_scipy():
    """Another definition than the paper's: for one episode it is the Mann-Whitney U statistic over n * m."""
    a, b = random_scores(12, 1).round(), random_scores(9, 1, seed=1).round()
    expected = scipy.stats.mannwhitneyu(a.ravel(), b.ravel()).statistic / (12 * 9)
    assert statistics.probability_of_improvement(a, b).value == pytest.approx(expected, rel=1e-12)


def test_performance_profile_by_hand():
    """Shares of scores at or above the threshold instead of above it; bands over episodes where runs are the unit."""
    fraction, low, high = statistics.performance_profile([[0, 1], [1, 3]], [-1, 0, 1, 2, 3])
    assert fraction.tolist() == [1, 0.75, 0.25, 0.25, 0]
    assert low.tolist() == [1, 0.5, 0, 0, 0] and high.tolist() == [1, 1, 0.5, 0.5, 0]


def test_performance_profile_integrates_to_the_mean():
    """Relation: for scores in [0, 1], the area under the profile is their mean."""
    scores = np.random.default_rng(0).uniform(size=(4, 25))
    thresholds = np.linspace(0, 1, 2001)
    fraction, low, high = statistics.performance_profile(scores, thresholds)
    assert np.trapezoid(fraction, thresholds) == pytest.approx(scores.mean(), abs=1e-3)
    assert (low <= fraction).all() and (fraction <= high).all()


def test_bad_scores_are_errors():
    """A score of zero invented for an evaluation without episodes; nan that spreads silently through a report."""
    for function in (statistics.mean, statistics.interquartile_mean, statistics.bootstrap_interval):
        with pytest.raises(ValueError, match="no scores: nothing to compute"):
            function([])
    with pytest.raises(ValueError, match="scores must be finite numbers"):
        statistics.mean([1.0, float("nan")])
    with pytest.raises(ValueError, match="paired scores need the same episodes: 3 against 2"):
        statistics.probability_of_improvement([1, 2, 3], [1, 2])


def test_an_interval_is_the_same_beside_others():
    """Other last digits in `sim` and in `analyze`, which asks for many at once."""
    scores = np.random.default_rng(0).normal(300, 80, (60, 16))
    together = np.stack(statistics.bootstrap_intervals(scores))
    alone = np.concatenate([np.stack(statistics.bootstrap_intervals(row[None])) for row in scores], axis=1)
    assert np.array_equal(together, alone)
