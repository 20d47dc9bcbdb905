"""Correlations, their intervals and regret against scipy's and hand-made numbers."""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import correlation
from gtn_lightning.nas.correlation import Correlation, Interval, measure_ranking, noise_ceiling, split_half

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noisy(size: int, noise: float, seed: int = 0) -> tuple[Array, Array]:
    """Scores that follow accuracies but for noise."""
    random = np.random.default_rng(seed)
    accuracy = random.random(size)
    return accuracy + noise * random.normal(size=size), accuracy


def intervals(part: Correlation) -> list[Interval]:
    return [part.overall, part.top_half, part.top_tenth]


@pytest.mark.parametrize("decimals", [9, 1])  # without ties and with many
def test_correlations_are_scipys_over_every_part(decimals: int) -> None:
    score, accuracy = (values.round(decimals) for values in noisy(60, 0.2))
    accuracy[:7] = np.linspace(0.01, 0.05, 7).round(3)
    ranking = measure_ranking(score, accuracy, broken_below=0.06, resamples=20)
    working = accuracy >= 0.06
    assert (ranking.architectures, ranking.broken) == (60, 60 - working.sum())
    for chosen, spearman, kendall in (
        (np.ones(60, dtype=bool), ranking.spearman, ranking.kendall),
        (working, ranking.spearman_working, ranking.kendall_working),
    ):
        for share, rho, tau in zip((1, 2, 10), intervals(spearman), intervals(kendall), strict=True):
            threshold = np.sort(accuracy[chosen])[-math.ceil(chosen.sum() / share)]
            part = chosen & (accuracy >= threshold)
            if (accuracy[part] == accuracy[part][0]).all():
                assert math.isnan(rho.value)
                continue
            assert rho.value == pytest.approx(spearmanr(score[part], accuracy[part]).statistic, abs=1e-12)
            assert tau.value == pytest.approx(kendalltau(score[part], accuracy[part]).statistic, abs=1e-12)


def test_top_half_is_of_the_accuracies() -> None:
    accuracy = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    ranking = measure_ranking([9.0, 9.0, 9.0, 9.0, 4.0, 3.0, 2.0, 1.0], accuracy, resamples=20)
    assert ranking.spearman.top_half.value == -1
    ranking = measure_ranking([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0], accuracy, resamples=20)
    assert ranking.spearman.top_half.value == ranking.kendall.top_half.value == 1
    assert ranking.spearman.overall.value < 0


def test_who_ties_with_the_last_of_the_top_belongs_to_it() -> None:
    score = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    accuracy = [0.1, 0.5, 0.5, 0.5, 0.9, 0.8]
    part = slice(1, None)
    for order in (slice(None), slice(None, None, -1)):
        ranking = measure_ranking(score[order], accuracy[order], resamples=20)
        expected = spearmanr(score[part], accuracy[part]).statistic
        assert ranking.spearman.top_half.value == pytest.approx(expected)


def test_a_tenth_of_too_few_has_no_correlation() -> None:
    score, accuracy = noisy(20, 0.1)
    assert np.isnan(measure_ranking(score, accuracy, resamples=20).spearman.top_tenth).all()
    score, accuracy = noisy(21, 0.1)
    assert math.isfinite(measure_ranking(score, accuracy, resamples=20).spearman.top_tenth.value)
    assert np.isnan(measure_ranking([1.0], [0.5], resamples=20).spearman.overall).all()


def test_networks_that_do_not_learn_are_left_out_where_it_says_so() -> None:
    accuracy = [0.10, 0.11, 0.09, 0.6, 0.7, 0.8]
    ranking = measure_ranking([0.0, 0.0, 0.0, 3.0, 2.0, 1.0], accuracy, broken_below=0.12, resamples=20)
    assert ranking.broken == 3
    assert ranking.spearman_working.overall.value == ranking.kendall_working.overall.value == -1
    assert ranking.spearman.overall.value > 0
    assert np.isnan(measure_ranking([1.0, 2.0, 3.0], [0.1, 0.1, 0.2], 0.5, resamples=20).spearman_working.overall).all()
    whole = measure_ranking([1.0, 2.0, 3.0, 5.0, 4.0], [0.1, 0.2, 0.3, 0.4, 0.5], resamples=20)
    assert whole.spearman_working == whole.spearman


def test_regret_of_the_best_by_score() -> None:
    accuracy = [0.90, 0.80, 0.95, 0.70, 0.60, 0.91, 0.5]
    score = [7.0, 6.0, 1.0, 5.0, 4.0, 3.0, 2.0]
    regret = measure_ranking(score, accuracy, resamples=50).regret
    assert regret[1].value == pytest.approx(0.05)  # 0.90 is picked, 0.95 is the best
    assert regret[5].value == pytest.approx(0.04)
    assert regret[10].value == 0  # all are
    assert measure_ranking(accuracy, accuracy, resamples=50).regret[1] == (0, 0, 0)
    assert 0 <= regret[5].low <= regret[1].high <= 0.45


@pytest.mark.parametrize(("tied", "picks"), [(2, 1), (7, 5), (8, 5), (11, 10)])
def test_regret_among_equal_scores_is_the_mean_over_ways_to_pick(tied: int, picks: int) -> None:
    random = np.random.default_rng(0)
    accuracy = random.random(12)
    score = np.where(np.arange(12) < 12 - tied, 2.0, 1.0)
    score[:1] = 3.0
    draws = []
    for _ in range(20_000):
        best = np.lexsort((random.random(12), -score))[:picks]
        draws.append(accuracy.max() - accuracy[best].max())
    assert measure_ranking(score, accuracy, resamples=1).regret[picks].value == pytest.approx(np.mean(draws), abs=5e-3)


def test_regret_does_not_depend_on_the_order_of_the_architectures() -> None:
    accuracy = [0.9, 0.5, 0.1]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        regret = measure_ranking([1.0, 1.0, 1.0], [accuracy[i] for i in order], resamples=20).regret[1]
        assert regret.value == pytest.approx(0.4)


def test_equal_scores_or_accuracies_correlate_with_nothing() -> None:
    varied = [0.1, 0.2, 0.3, 0.4]
    for score, accuracy in ((np.ones(4), varied), (varied, np.ones(4)), ([math.nan] * 4, varied)):
        ranking = measure_ranking(score, accuracy, resamples=20)
        for part in (ranking.spearman, ranking.kendall, ranking.spearman_working, ranking.kendall_working):
            assert np.isnan(intervals(part)).all()


def test_scores_that_are_nan_are_the_worst() -> None:
    accuracy = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    with_nan = measure_ranking([math.nan, -math.inf, 1.0, 3.0, 2.0, math.inf], accuracy, resamples=50)
    assert with_nan == measure_ranking([-9.0, -9.0, 1.0, 3.0, 2.0, 9.0], accuracy, resamples=50)
    assert measure_ranking([1.0, 2.0, 3.0, 4.0, 5.0, math.nan], accuracy, resamples=50).spearman.overall.value < 0.5
    assert measure_ranking([1.0, 2.0, 3.0, 4.0, 5.0, math.nan], accuracy, resamples=50).regret[
        1
    ].value == pytest.approx(0.1)


def test_intervals_cover_what_is_true_of_all_architectures() -> None:
    score, accuracy = noisy(4000, 0.3)
    whole = measure_ranking(score, accuracy, resamples=2)
    rho, tau = whole.spearman.overall.value, whole.kendall.overall.value
    covered = np.zeros(2)
    widths = []
    for number in range(80):
        rows = slice(50 * number, 50 * (number + 1))
        ranking = measure_ranking(score[rows], accuracy[rows], resamples=200, seed=number)
        for place, (interval, truth) in enumerate(((ranking.spearman.overall, rho), (ranking.kendall.overall, tau))):
            assert interval.low <= interval.value <= interval.high
            covered[place] += interval.low <= truth <= interval.high
        widths.append(ranking.spearman.overall.high - ranking.spearman.overall.low)
    # 76 of 80 are expected, with a deviation of 2; a percentile interval of 50 is a little too narrow.
    assert (covered >= 67).all()
    assert np.mean(widths) < 0.45
    wide = whole.spearman.overall
    assert wide.high - wide.low < 0.1


def test_intervals_shrink_with_the_number_of_architectures() -> None:
    score, accuracy = noisy(1600, 0.3)
    for part in ("spearman", "kendall"):
        widths = []
        for size in (100, 400, 1600):
            interval = getattr(measure_ranking(score[:size], accuracy[:size], resamples=200), part).overall
            assert interval.low < interval.value < interval.high
            widths.append(interval.high - interval.low)
        # Four times as many halve it.
        assert 1.3 < widths[0] / widths[1] < 3
        assert 1.3 < widths[1] / widths[2] < 3


def test_the_seed_decides_the_resamples_and_nothing_else_does() -> None:
    score, accuracy = noisy(40, 0.3)
    np.random.seed(1)  # noqa: NPY002
    first = measure_ranking(score, accuracy, resamples=50)
    np.random.seed(2)  # noqa: NPY002
    assert measure_ranking(torch.from_numpy(score), torch.from_numpy(accuracy), resamples=50) == first
    other = measure_ranking(score, accuracy, seed=1, resamples=50).spearman.overall
    assert other.value == first.spearman.overall.value
    assert other.low != first.spearman.overall.low


def test_the_interval_of_tau_b_does_not_depend_on_how_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    score, accuracy = (values.round(1) for values in noisy(40, 0.3))
    pairs = measure_ranking(score, accuracy, resamples=50).kendall
    monkeypatch.setattr(correlation, "ALL_PAIRS", 0)
    scipys = measure_ranking(score, accuracy, resamples=50).kendall
    assert np.ravel(intervals(pairs)).tolist() == pytest.approx(np.ravel(intervals(scipys)).tolist(), nan_ok=True)


def test_no_resamples_give_values_without_intervals() -> None:
    score, accuracy = noisy(40, 0.3)
    ranking = measure_ranking(score, accuracy, resamples=0)
    assert ranking.spearman.overall.value == measure_ranking(score, accuracy, resamples=20).spearman.overall.value
    for interval in (ranking.spearman.overall, ranking.kendall.overall, *ranking.regret.values()):
        assert math.isfinite(interval.value)
        assert np.isnan([interval.low, interval.high]).all()


def test_split_half_correlates_seeds_with_seeds() -> None:
    random = np.random.default_rng(0)
    accuracy = random.random((30, 1)) + 0.2 * random.normal(size=(30, 2))
    assert split_half(accuracy).value == pytest.approx(spearmanr(*accuracy.T).statistic)
    four = random.random((30, 1)) + 0.2 * random.normal(size=(30, 4))
    expected = [
        spearmanr(four[:, [0, one]].mean(1), four[:, [i for i in (1, 2, 3) if i != one]].mean(1)).statistic
        for one in (1, 2, 3)
    ]
    halves = split_half(torch.from_numpy(four))
    assert halves.value == pytest.approx(np.mean(expected))
    assert halves.low < halves.value < halves.high


@pytest.mark.parametrize("seeds", [2, 3, 4, 9])
def test_ceiling_is_what_the_true_accuracies_reach(seeds: int) -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=3000)
    measured = true[:, None] + 0.7 * random.normal(size=(3000, seeds))
    reached = spearmanr(true, measured.mean(axis=1)).statistic
    found = noise_ceiling(measured, resamples=20)
    assert found.value == pytest.approx(reached, abs=0.015)
    assert split_half(measured, resamples=1).value < reached - 0.03
    assert found.low <= found.value <= found.high


def test_ceiling_by_hand() -> None:
    accuracy = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [4.0, 4.0]])
    assert split_half(accuracy).value == pytest.approx(0.8)
    assert noise_ceiling(accuracy).value == pytest.approx(math.sqrt(2 * 0.8 / 1.8))
    opposed = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])
    assert noise_ceiling(opposed).value == 0
    assert np.isnan(noise_ceiling(np.ones((4, 2)))).all()
    assert np.isnan(noise_ceiling(accuracy[:2])).all()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"one number for every architecture, got shapes \[3\] and \[2\]"):
        measure_ranking([1.0, 2.0, 3.0], [0.1, 0.2])
    with pytest.raises(RecipeError, match="one number for every architecture"):
        measure_ranking([], [])
    with pytest.raises(RecipeError, match="must hold finite accuracies"):
        measure_ranking([1.0, 2.0], [0.1, math.nan])
    for accuracy in (np.ones((4, 1)), np.ones(4)):
        for function in (split_half, noise_ceiling):
            with pytest.raises(RecipeError, match=r"split_half: .* of shape \[architectures, 2 or more\], got"):
                function(accuracy)
