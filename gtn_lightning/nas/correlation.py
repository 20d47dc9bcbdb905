"""How well scores rank architectures by their accuracies."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, kendalltau, rankdata
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.randomness import keyed_seed

Array: TypeAlias = NDArray[np.float64]
Values: TypeAlias = Sequence[float] | Array | Tensor

CONFIDENCE = 0.95
"""The share of resamples that an interval holds."""

MIN_ARCHITECTURES = 3
"""Minimum number of architectures for a correlation."""

REGRET_AT = (1, 5, 10)
"""Values of k for which the regret of the best k by score is reported."""

BATCH = 100
"""Number of resamples that are in memory at once."""

ALL_PAIRS = 2000
"""Most architectures for which tau-b is computed from a matrix of all pairs: for many resamples faster than scipy."""

SPLITS = 100
"""Maximum number of ways to split the seeds in halves."""


class Interval(NamedTuple):
    """A value, and the ends of its bootstrap interval; all nan where there is no value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Correlation:
    """A rank correlation of scores with accuracies, over several parts of the architectures."""

    overall: Interval
    top_half: Interval
    """Over the half with the best accuracies, among which a search has to choose."""
    top_tenth: Interval
    """Over the best tenth."""


@dataclass(frozen=True)
class Ranking:
    """How well scores rank architectures."""

    architectures: int
    broken: int
    """Number of architectures that do not learn."""
    spearman: Correlation
    kendall: Correlation
    """Kendall's tau-b."""
    spearman_working: Correlation
    """Without those that do not learn, which are easy to recognize; halves and tenths are of the remaining ones."""
    kendall_working: Correlation
    regret: dict[int, Interval]
    """For some k, the best accuracy of all less the best accuracy among the k with the best scores."""


def measure_ranking(
    scores: Values, reference: Values, broken_below: float = -math.inf, resamples: int = 1000, seed: int = 0
) -> Ranking:
    """Compare the order of scores with that of accuracies.

    Intervals are percentiles of the bootstrap (Efron, 1979): architectures are drawn with replacement, from the part
    that a correlation is over, which is chosen once. They say how a value would vary with other architectures of that
    part, not with other seeds. Resamples in which a value does not exist are left out.

    Architectures that tie with the last member of a top share belong to it too. Among equal scores, regret is the mean
    over all ways of picking from them.

    Args:
        scores: higher is better; NaN counts as the worst.
        reference: accuracies, one for each score.
        broken_below: an architecture whose accuracy is lower does not learn.
        resamples: number of resamples; 0 for no intervals.
        seed: of the resampling.

    Returns:
        Correlations are nan where all scores or all accuracies are equal, or there are fewer than three.

    Raises:
        RecipeError: the numbers of scores and accuracies differ, there are none, or an accuracy is not finite.
    """
    score, accuracy = _array(scores), _array(reference)
    if score.ndim != 1 or score.shape != accuracy.shape or not len(score):
        raise RecipeError(
            "measure_ranking: scores and reference must hold one number for every architecture, got shapes "
            f"{list(score.shape)} and {list(accuracy.shape)}"
        )
    if not np.isfinite(accuracy).all():
        raise RecipeError("measure_ranking: reference must hold finite accuracies: leave the others out")
    score = rankdata(np.where(np.isnan(score), -math.inf, score))  # finite, in the same order, with the same ties
    random = np.random.default_rng(keyed_seed(seed, "bootstrap"))
    broken = accuracy < broken_below
    everything = _correlations(score, accuracy, resamples, random)
    working = _correlations(score[~broken], accuracy[~broken], resamples, random) if broken.any() else everything
    return Ranking(len(score), int(broken.sum()), *everything, *working, _regrets(score, accuracy, resamples, random))


def split_half(reference: Array | Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the Spearman correlation of accuracies from one half of the seeds with those from the other.

    It is the mean over all, or `SPLITS`, ways of halving the seeds; of an odd number, each leaves one seed out.

    Args:
        reference: accuracies ``[architectures, seeds]``.
        resamples: number of resamples of the architectures for the interval.
        seed: of the resampling.

    Raises:
        RecipeError: there are fewer than two seeds.
    """
    accuracy = _array(reference)
    if accuracy.ndim != 2 or accuracy.shape[1] < 2:
        raise RecipeError(
            f"split_half: reference must be of shape [architectures, 2 or more], got {list(accuracy.shape)}"
        )
    architectures, seeds = accuracy.shape
    random = np.random.default_rng(keyed_seed(seed, "bootstrap"))
    if architectures < MIN_ARCHITECTURES:
        return _NOTHING
    pairs = [[accuracy[:, half].mean(axis=1) for half in halves] for halves in _halves(seeds, random)]
    return _interval(
        lambda rows: np.mean([_spearman(one[rows], other[rows]) for one, other in pairs], axis=0),
        architectures,
        resamples,
        random,
    )


def noise_ceiling(reference: Array | Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    r"""Return the noise ceiling: the correlation of a perfect proxy with the mean over the seeds.

    Even the true accuracies do not correlate perfectly with measured ones. If halves of the seeds correlate with
    :math:`r`, then the mean over k times as many seeds as are in a half has the reliability

    .. math:: \rho = \frac{k r}{1 + (k - 1) r}

    (Spearman, "Correlation calculated from faulty data", 1910; Brown, "Some experimental results in the correlation of
    mental abilities", 1910), and what is measured without error correlates with it by at most :math:`\sqrt\rho`
    (Spearman, "The proof and measurement of association between two things", 1904). Both hold for Pearson's
    correlation and errors that are alike for all architectures; for ranks they are an approximation.

    Args:
        reference: accuracies ``[architectures, seeds]``.
        resamples: number of resamples of the architectures for the interval.
        seed: of the resampling.

    Raises:
        RecipeError: there are fewer than two seeds.
    """
    halves = split_half(reference, resamples, seed)
    seeds = reference.shape[1]
    times = seeds / (seeds // 2)
    return Interval(*(_ceiling(correlation, times) for correlation in halves))


_NOTHING = Interval(math.nan, math.nan, math.nan)


def _ceiling(correlation: float, times: float) -> float:
    if math.isnan(correlation):
        return math.nan
    positive = max(0.0, correlation)
    return math.sqrt(times * positive / (1 + (times - 1) * positive))


def _halves(seeds: int, random: np.random.Generator) -> list[tuple[list[int], list[int]]]:
    """Return ways of choosing two halves of the seeds: all, or as many as `SPLITS` of them at random."""
    size = seeds // 2
    if seeds <= 8:
        every = [
            (list(first), list(second))
            for first in combinations(range(seeds), size)
            for second in combinations(sorted({*range(seeds)} - {*first}), size)
            if first < second
        ]
        return every if len(every) <= SPLITS else [every[i] for i in random.permutation(len(every))[:SPLITS]]
    orders = [random.permutation(seeds).tolist() for _ in range(SPLITS)]
    return [(order[:size], order[size : 2 * size]) for order in orders]


def _array(values: Values) -> Array:
    return np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=np.float64)


def _correlations(
    score: Array, accuracy: Array, resamples: int, random: np.random.Generator
) -> tuple[Correlation, Correlation]:
    """Return Spearman's and Kendall's."""
    parts = [_top(accuracy, share) for share in (1, 2, 10)]
    spearman, kendall = zip(*(_both(score[part], accuracy[part], resamples, random) for part in parts), strict=True)
    return Correlation(*spearman), Correlation(*kendall)


def _top(accuracy: Array, share: int) -> NDArray[np.bool_]:
    """Return which belong to the best of 1/share, rounded up, or tie with the last of them."""
    count = -(-len(accuracy) // share)
    return accuracy >= np.sort(accuracy)[-count] if count else np.zeros(0, dtype=bool)


def _both(score: Array, accuracy: Array, resamples: int, random: np.random.Generator) -> tuple[Interval, Interval]:
    if len(score) < MIN_ARCHITECTURES:
        return _NOTHING, _NOTHING
    options = (len(score), resamples, random)
    spearman = _interval(lambda rows: _spearman(score[rows], accuracy[rows]), *options)
    return spearman, _interval(partial(_kendall, score, accuracy), *options)


def _interval(
    statistic: Callable[[NDArray[np.intp]], Array], size: int, resamples: int, random: np.random.Generator
) -> Interval:
    """Return a statistic of all architectures, with its bootstrap interval.

    Args:
        statistic: from numbers of architectures ``[..., size]`` to values ``[...]``; nan where there is no value.
        size: number of architectures.
        resamples: number of resamples.
        random: draws them.
    """
    everyone = np.arange(size)
    value = float(statistic(everyone))
    if math.isnan(value) or not resamples:
        return Interval(value, math.nan, math.nan)
    if size == 1:
        return Interval(value, value, value)
    with warnings.catch_warnings():  # of its own interval: nan if one resample has no value
        warnings.simplefilter("ignore", RuntimeWarning)
        drawn = bootstrap(
            (everyone,),
            lambda rows, axis: statistic(rows),
            n_resamples=resamples,
            batch=BATCH,
            vectorized=True,
            method="percentile",
            random_state=random,  # its name before scipy 1.15, which later versions take as well
        ).bootstrap_distribution
    there = drawn[~np.isnan(drawn)]
    if not len(there):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def _spearman(first: Array, second: Array) -> Array:
    """Return Spearman's correlation over the last axis; nan where one of the two is constant."""
    ranks = [rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (first, second)]
    covariance, *variances = (np.sum(one * other, -1) for one, other in (ranks, ranks[:1] * 2, ranks[1:] * 2))
    return _ratio(covariance, *variances)


def _kendall(first: Array, second: Array, rows: NDArray[np.intp]) -> Array:
    """Return tau-b of the drawn rows, as `_spearman`; an architecture drawn twice is a tie in both."""
    drawn = rows.reshape(-1, len(first))
    if len(first) > ALL_PAIRS:
        return np.array([kendalltau(first[row], second[row]).statistic for row in drawn]).reshape(rows.shape[:-1])
    counts = np.stack([np.bincount(row, minlength=len(first)) for row in drawn]).astype(np.float64)
    signs = [np.sign(values[:, None] - values) for values in (first, second)]
    pairs = (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    return _ratio(*(np.sum(counts @ matrix * counts, -1).reshape(rows.shape[:-1]) for matrix in pairs))


def _ratio(covariance: Array, *variances: Array) -> Array:
    below = np.sqrt(variances[0] * variances[1])
    return np.divide(covariance, below, out=np.full_like(below, np.nan), where=below > 0)


def _regrets(score: Array, accuracy: Array, resamples: int, random: np.random.Generator) -> dict[int, Interval]:
    """Return the regret of the best by score, for each of `REGRET_AT`; an architecture drawn twice is one."""
    order = np.argsort(-score, kind="stable")
    score, accuracy = score[order], accuracy[order]

    def regret(picks: int, rows: NDArray[np.intp]) -> Array:
        drawn = (np.unique(row) for row in rows.reshape(-1, len(score)))
        return np.array([_regret(score[row], accuracy[row], picks) for row in drawn]).reshape(rows.shape[:-1])

    return {picks: _interval(partial(regret, picks), len(score), resamples, random) for picks in REGRET_AT}


def _regret(score: Array, accuracy: Array, picks: int) -> float:
    """Return the mean regret over all ways of picking the best by score; scores descend."""
    best = accuracy.max()
    if picks >= len(score):
        return 0.0
    last = score[picks - 1]
    certain = accuracy[score > last]
    tied = np.sort(accuracy[score == last])[::-1]
    left, ways = picks - len(certain), len(tied)
    # The probability that the i-th best of the tied is the best of those picked from them: picked, and none before it.
    before = np.arange(ways)
    missed = np.cumprod(np.append(1.0, (ways - before[:-1] - left) / (ways - before[:-1])))
    chance = missed * left / (ways - before)
    return float(best - chance @ np.maximum(tied, certain.max(initial=-math.inf)))
