"""Statistics of evaluation scores, after Agarwal et al. 2021 (arXiv 2108.13264): means, intervals, comparisons.

Every interval is a 95% percentile bootstrap with a fixed seed, so the same scores always get the same interval.
A resample is kept as counts (how often each value was drawn): the means of all resamples are then one matrix
product, and the interquartile means one cumulative sum, without drawing or sorting anything again.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
BLOCK_VALUES = 4_000_000  # counts held at once: 32 MB

Floats: TypeAlias = NDArray[np.float64]
K = TypeVar("K")


@dataclass(frozen=True)
class Score:
    """Mean reward over episodes with its 95% bootstrap interval (low, high), and the interquartile mean."""

    mean: float
    low: float
    high: float
    iqm: float
    episodes: int

    @classmethod
    def of(cls, rewards: Sequence[float]) -> "Score":
        """The score of these episodes; ValueError where there are none."""
        return score_each({None: rewards})[None]


class Estimate(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def score_each(evaluations: Mapping[K, Sequence[float]]) -> dict[K, Score]:
    """A Score of each evaluation's rewards, in order; those with as many episodes share one matrix product."""
    scores: dict[K, Score] = {}
    by_size: dict[int, list[K]] = defaultdict(list)
    for key, rewards in evaluations.items():
        by_size[len(rewards)].append(key)
    for size, keys in by_size.items():
        rows = np.array([evaluations[key] for key in keys])
        columns = (means(rows), *bootstrap_intervals(rows), interquartile_means(rows))
        for key, (centre, low, high, iqm) in zip(keys, np.stack(columns, axis=1).tolist(), strict=True):
            scores[key] = Score(centre, low, high, iqm, size)
    return {key: scores[key] for key in evaluations}


def mean(scores: ArrayLike) -> float:
    """Compute the mean of all scores."""
    return float(means(_values(scores).reshape(1, -1))[0])


def means(scores: ArrayLike) -> Floats:
    """Mean of each row of `scores` [E, N]: [E]. Taken from the first value on, so that equal scores have exactly it."""
    values = _values(scores)
    return values[:, 0] + (values - values[:, :1]).mean(axis=1)


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all scores: floor(N / 4) are left out at each end, as `scipy.stats.trim_mean` does."""
    return float(interquartile_means(_values(scores).reshape(1, -1))[0])


def interquartile_means(scores: ArrayLike) -> Floats:
    """Interquartile mean of each row of `scores` [E, N]: [E]."""
    values = np.sort(_values(scores), axis=1)
    cut = values.shape[1] // 4
    return means(values[:, cut : values.shape[1] - cut])


def bootstrap_interval(scores: ArrayLike) -> tuple[float, float]:
    """95% interval (low, high) of the mean of all scores. One score alone gives (score, score)."""
    low, high = bootstrap_intervals(_values(scores).reshape(1, -1))
    return float(low[0]), float(high[0])


def bootstrap_intervals(scores: ArrayLike) -> tuple[Floats, Floats]:
    """95% interval of the mean of each row of `scores` [E, N]: low [E], high [E]. All rows share their resamples."""
    values = _values(scores)
    centre = means(values)
    rest = values - centre[:, None]  # so that equal scores give an interval of no width, whatever rounding does
    sums = np.concatenate([rest @ counts.T for counts in _blocks(values.shape[1])], axis=1)
    low, high = _percentiles(sums / values.shape[1])
    return _rounded(low) + centre, _rounded(high) + centre


def _rounded(values: Floats) -> Floats:
    """To 10 digits, for the last ones of a matrix product depend on how many rows it has."""
    return np.array([float(f"{value:.10g}") for value in values])


def iqm_over_runs(scores: ArrayLike) -> Estimate:
    """Interquartile mean of `scores` [runs, episodes], with an interval over runs.

    Whole runs are resampled, since all episodes of a run share one policy: drawing single episodes would treat 100
    episodes of 3 runs as 300 runs. With a single run, its episodes are resampled.
    """
    values = _runs(scores)
    blocks = (np.repeat(counts, values.shape[1], axis=1) for counts in _blocks(len(values)))
    return Estimate(interquartile_mean(values), *_iqm_interval(values.ravel(), blocks))


def iqm_stratified(scores: ArrayLike) -> Estimate:
    """Interquartile mean of `scores` [runs, strata], with the stratified bootstrap of Agarwal et al., section 4.1.

    A stratum is a task (environment) and holds one score of each run; runs are drawn anew inside each stratum.
    """
    values = np.atleast_2d(_values(scores))
    return Estimate(interquartile_mean(values), *_iqm_interval(values.T.ravel(), _blocks(*values.shape)))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> Estimate:
    """P(A > B) on the same episodes, ties counting half: `a` [runs_a, episodes], `b` [runs_b, episodes], or [episodes].

    Column e of both is the same episode seed. Each run of A meets each run of B on each episode (Agarwal et al.,
    appendix A.4). The interval resamples the runs of both; where each side has one run, it resamples the episodes.
    """
    first, second = np.atleast_2d(_values(a)), np.atleast_2d(_values(b))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"paired scores need the same episodes: {first.shape[1]} against {second.shape[1]}")
    if len(first) == len(second) == 1:
        wins = _wins(first[0], second[0])
        return Estimate(float(wins.mean()), *bootstrap_interval(wins))
    wins = np.array([_wins(run, second).mean(axis=1) for run in first])  # [runs_a, runs_b]
    rng = np.random.default_rng(0)
    counts_a, counts_b = _draw(rng, RESAMPLES, len(first)), _draw(rng, RESAMPLES, len(second))
    low, high = _percentiles(np.einsum("ra,ab,rb->r", counts_a, wins, counts_b, optimize=True)[None] / wins.size)
    return Estimate(float(wins.mean()), float(low[0]), float(high[0]))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Share of `scores` [runs, episodes] above each threshold [T], and its 95% band: fraction [T], low [T], high [T].

    The band resamples runs; with a single run, its episodes.
    """
    values = _runs(scores)
    above = (values > _values(thresholds).reshape(-1, 1, 1)).mean(axis=2)  # [T, runs]
    return above.mean(axis=1), *bootstrap_intervals(above)


def _values(scores: ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no scores: nothing to compute")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite numbers")
    return values


def _runs(scores: ArrayLike) -> Floats:
    """[runs, episodes] as it is; a single run's episodes, [episodes] or [1, episodes], each as a run of its own."""
    values = np.atleast_2d(_values(scores))
    return values.T if len(values) == 1 else values


def _wins(a: Floats, b: Floats) -> Floats:
    return (a > b) + 0.5 * (a == b)


def _percentiles(resampled: Floats) -> tuple[Floats, Floats]:
    """Compute the ends of the interval of each row of [E, resamples]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=1)
    return low, high


def _draw(rng: np.random.Generator, resamples: int, size: int) -> Floats:
    """`resamples` draws of `size` out of `size` values with replacement, as counts [resamples, size]."""
    drawn = rng.integers(size, size=(resamples, size)) + np.arange(resamples)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


@functools.lru_cache(maxsize=4)
def _small(size: int) -> Floats:
    return _draw(np.random.default_rng(0), RESAMPLES, size)


def _blocks(size: int, strata: int = 1) -> Iterator[Floats]:
    """Yield all resamples of `size` values in each of the strata, as counts [resamples in the block, strata * size]."""
    if strata == 1 and size * RESAMPLES <= BLOCK_VALUES:
        yield _small(size)
        return
    rng, rows = np.random.default_rng(0), max(1, BLOCK_VALUES // (strata * size))
    for start in range(0, RESAMPLES, rows):
        yield _draw(rng, min(rows, RESAMPLES - start) * strata, size).reshape(-1, strata * size)


def _iqm_interval(values: Floats, blocks: Iterable[Floats]) -> tuple[float, float]:
    """Interval of the interquartile mean of `values` [N], given counts [resamples, N] in blocks.

    In sorted order, a resample's cumulative counts, cut at floor(N / 4) and N - floor(N / 4), give each value's weight.
    """
    order = np.argsort(values)
    cut = len(values) // 4
    resampled = []
    for counts in blocks:
        upto = np.clip(np.cumsum(counts[:, order], axis=1), cut, len(values) - cut)
        resampled.append(np.diff(upto, axis=1, prepend=cut) @ values[order] / (len(values) - 2 * cut))
    low, high = _percentiles(np.concatenate(resampled)[None])
    return float(low[0]), float(high[0])
