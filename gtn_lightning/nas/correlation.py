"""How well scores put architectures into the order of their accuracies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata
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

KENDALL_OPERATIONS = 5e9
"""Products that the interval of one tau-b may take, one for each pair of architectures and resample."""

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
    """Over the half with the best accuracies, which is where a search has to choose."""
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
    """Without those that do not learn, which are easily told from the rest; halves and tenths are of what is left."""
    kendall_working: Correlation
    regret: dict[int, Interval]
    """For some k, by how much the best of all is better than the best of the k with the best scores."""


def measure_ranking(
    scores: Values, reference: Values, broken_below: float = -math.inf, resamples: int = 1000, seed: int = 0
) -> Ranking:
    """Hold scores against accuracies.

    Intervals are percentiles of the bootstrap (Efron, 1979): architectures are drawn with replacement, from the part
    that a correlation is over, which is chosen once. They say how a value would vary with other architectures of that
    part, not with other seeds. Those of tau-b are from fewer resamples where there are more than some 2,000
    architectures, see `KENDALL_OPERATIONS`. Resamples in which a value does not exist are left out.

    A part that is a top share takes in whoever ties with its last member. Among equal scores, regret is the mean over
    every way of picking from them.

    Args:
        scores: more is better; NaN counts as the worst.
        reference: accuracies, one for each score.
        broken_below: an architecture whose accuracy is lower does not learn.
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        Correlations are nan where all scores or all accuracies are equal, or there are fewer than three.

    Raises:
        RecipeError: the numbers of scores and accuracies differ, there are none, or an accuracy is not finite.
    """
    score, accuracy = _array(scores), _array(reference)
    if score.ndim != 1 or score.shape != accuracy.shape or not len(score):
        raise RecipeError(
            f"measure_ranking: scores {list(score.shape)} and reference {list(accuracy.shape)} given, expected one of "
            "each for every architecture"
        )
    if not np.isfinite(accuracy).all():
        raise RecipeError("measure_ranking: an accuracy in reference is not finite: leave that architecture out")
    score = np.where(np.isnan(score), -math.inf, score)
    random = np.random.default_rng(keyed_seed(seed, "bootstrap"))
    broken = accuracy < broken_below
    everything = _correlations(score, accuracy, resamples, random)
    working = _correlations(score[~broken], accuracy[~broken], resamples, random) if broken.any() else everything
    return Ranking(len(score), int(broken.sum()), *everything, *working, _regrets(score, accuracy, resamples, random))


def split_half(reference: Array | Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the Spearman correlation of accuracies from one half of the seeds with those from the other.

    It is the mean over the ways of halving the seeds, of an odd number of which one is left out.

    Args:
        reference: accuracies ``[architectures, seeds]``.
        resamples: number of resamples of the architectures for the interval.
        seed: of the resampling.

    Raises:
        RecipeError: there are fewer than two seeds.
    """
    accuracy = _array(reference)
    if accuracy.ndim != 2 or accuracy.shape[1] < 2:
        raise RecipeError(f"split_half: {list(accuracy.shape)} accuracies given, expected [architectures, 2 or more]")
    architectures, seeds = accuracy.shape
    random = np.random.default_rng(keyed_seed(seed, "bootstrap"))
    if architectures < MIN_ARCHITECTURES:
        return _NOTHING
    counts = _resample(architectures, resamples, random)
    values, resampled = [], []
    for first, second in _halves(seeds, random):
        one, other = (accuracy[:, half].mean(axis=1) for half in (first, second))
        values.append(_spearman(one, other, np.ones((1, architectures)))[0])
        resampled.append(_spearman(one, other, counts))
    return _interval(float(np.mean(values)), np.mean(resampled, axis=0))


def ceiling(reference: Array | Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    r"""Return what a perfect proxy could reach, held against the mean over the seeds.

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
    if len(score) < MIN_ARCHITECTURES or (score == score[0]).all() or (accuracy == accuracy[0]).all():
        return _NOTHING, _NOTHING
    once = np.ones((1, len(score)))
    counts = _resample(len(score), resamples, random)
    affordable = max(100, int(KENDALL_OPERATIONS / len(score) ** 2))
    tau = float(kendalltau(rankdata(score), rankdata(accuracy)).statistic)  # of ranks, since it drops infinite scores
    return (
        _interval(float(_spearman(score, accuracy, once)[0]), _spearman(score, accuracy, counts)),
        _interval(tau, _kendall(score, accuracy, counts[:affordable])),
    )


def _resample(size: int, resamples: int, random: np.random.Generator) -> Array:
    """Return how often each of `size` things is drawn, ``[resamples, size]``."""
    return random.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)


def _interval(value: float, resampled: Array) -> Interval:
    there = resampled[~np.isnan(resampled)]
    if math.isnan(value) or not len(there):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def _spearman(first: Array, second: Array, counts: Array) -> Array:
    """Return Spearman's correlation in every resample; nan where one of the two is constant.

    Args:
        first: ``[n]``.
        second: ``[n]``.
        counts: how often each of the n is there, ``[resamples, n]``.
    """
    ranks = [_centred_ranks(values, counts) for values in (first, second)]
    covariance = np.einsum("rn,rn,rn->r", counts, *ranks)
    variances = [np.einsum("rn,rn,rn->r", counts, rank, rank) for rank in ranks]
    return _ratio(covariance, np.sqrt(variances[0] * variances[1]))


def _centred_ranks(values: Array, counts: Array) -> Array:
    """Return ranks in every resample, mean ranks for ties, less their mean; without sorting any of the resamples."""
    order = np.argsort(values, kind="stable")
    _, starts, groups = np.unique(values[order], return_index=True, return_inverse=True)
    members = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = members.cumsum(axis=1) - (members - 1) / 2
    back = np.empty(len(order), dtype=np.intp)
    back[order] = groups
    centred: Array = ranks[:, back] - (len(values) + 1) / 2
    return centred


def _kendall(first: Array, second: Array, counts: Array) -> Array:
    """Return tau-b in every resample, as `_spearman`; twice the same architecture is a tie in both."""
    concordant, untied_first, untied_second = (np.zeros(len(counts)) for _ in range(3))
    weights = counts.astype(np.float32)  # sums of n products of 0 and 1 with small counts are exact
    for rows in np.array_split(np.arange(len(first)), -(-len(first) // 512)):
        signs = [_signs(values, rows) for values in (first, second)]
        for total, matrix in (
            (concordant, signs[0] * signs[1]),
            (untied_first, np.abs(signs[0])),
            (untied_second, np.abs(signs[1])),
        ):
            total += np.einsum("rn,rn->r", (weights @ matrix).astype(np.float64), counts[:, rows])
    return _ratio(concordant, np.sqrt(untied_first * untied_second))


def _signs(values: Array, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    columns = values[:, None]
    return (columns > values[rows]).astype(np.float32) - (columns < values[rows]).astype(np.float32)


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _regrets(score: Array, accuracy: Array, resamples: int, random: np.random.Generator) -> dict[int, Interval]:
    """Return the regret of the best by score, for each of `REGRET_AT`; an architecture drawn twice is one."""
    order = np.argsort(-score, kind="stable")
    score, accuracy = score[order], accuracy[order]
    there = _resample(len(score), resamples, random) > 0
    regrets: dict[int, Interval] = {}
    for picks in REGRET_AT:
        resampled = [_regret(score[some], accuracy[some], picks) for some in there]
        regrets[picks] = _interval(_regret(score, accuracy, picks), np.array(resampled))
    return regrets


def _regret(score: Array, accuracy: Array, picks: int) -> float:
    """Return the mean regret over all ways of picking the best by score; scores descend."""
    best = accuracy.max()
    if picks >= len(score):
        return 0.0
    last = score[picks - 1]
    surely = accuracy[score > last]
    tied = np.sort(accuracy[score == last])[::-1]
    left, ways = picks - len(surely), len(tied)
    # The chance that the i-th best of the tied is the best of those picked from them: picked, and none before it.
    before = np.arange(ways)
    missed = np.cumprod(np.append(1.0, (ways - before[:-1] - left) / (ways - before[:-1])))
    chance = missed * left / (ways - before)
    return float(best - chance @ np.maximum(tied, surely.max(initial=-math.inf)))
