"""Places predicted from known accuracies, on hand-made values."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import Architecture, ConvNetGrid, MeanRank, PredictedRank, TableReference
from gtn_lightning.nas.proxies.base import Cost, Features, Proxy, Report, Score, Scorer
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.randomness import keyed_generator

GRID = ConvNetGrid((1, 28, 28), 10)
KNOWN = [one for one in GRID.draw(120, keyed_generator(0, "known")) if not GRID.is_held_out(one, 0.5)]
HELD_OUT = GRID.draw(60, keyed_generator(0, "ranked"), held_out=0.5)


def worth(architecture: Architecture) -> float:
    """Return an accuracy that depends on the choices alone, on pairs of them as well."""
    choices = architecture.choices
    better = math.log2(int(choices["width"])) / 5 + (choices["norm"] == "batch") * (choices["activation"] == "relu")
    return 1 - math.exp(-1 - better)


class HintScorer(Scorer):
    proxy: "Hint"

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        assert report is None
        value = -math.inf if architecture.name in self.proxy.invalid else hidden(architecture)
        return Score(value, Cost(seconds=2.0, images=1))

    def overhead(self) -> Cost:
        return Cost(seconds=60.0)


class Hint(Proxy):
    """Something that the choices do not show."""

    name = "hint"
    scorer = HintScorer

    def __init__(self, invalid: tuple[str, ...] = ()) -> None:
        self.invalid = invalid


def hidden(architecture: Architecture) -> float:
    return float(torch.randn((), generator=keyed_generator(0, architecture.name)))


def table(folder: Path, accuracies: dict[Architecture, float], seconds: float | None = None) -> TableReference:
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "accuracy", *(["seconds"] if seconds else [])])
        writer.writerows([name, value, *([seconds] if seconds else [])] for name, value in accuracies.items())
    return TableReference(str(path))


def bound(proxy: Proxy) -> Scorer:
    return proxy.bind(GRID, DigitsData(32))


def test_from_choices_alone_it_ranks_what_it_was_not_told(tmp_path: Path) -> None:
    proxy = bound(PredictedRank(table(tmp_path, {name: worth(name) for name in KNOWN}), []))
    scores = [score.value for score in proxy.evaluate_all(HELD_OUT)]
    assert spearmanr(scores, [worth(name) for name in HELD_OUT]).statistic > 0.9
    assert proxy.name == "predicted from choices"
    assert proxy(HELD_OUT[0]) == pytest.approx(scores[0])


def test_proxies_tell_what_choices_do_not(tmp_path: Path) -> None:
    true = {name: worth(name) + 0.03 * hidden(name) for name in [*KNOWN, *HELD_OUT]}
    known = table(tmp_path, {name: true[name] for name in KNOWN})
    found = []
    for proxy in (PredictedRank(known, []), PredictedRank(known, [Hint()]), PredictedRank(known, [Hint()], False)):
        scores = [score.value for score in bound(proxy).evaluate_all(HELD_OUT)]
        found.append(spearmanr(scores, [true[name] for name in HELD_OUT]).statistic)
    assert found[1] > 0.9
    assert found[1] > max(found[0], found[2]) + 0.1


def test_what_is_held_out_is_not_told(tmp_path: Path) -> None:
    told = {name: worth(name) for name in KNOWN}
    lies = {name: 1 - worth(name) for name in HELD_OUT}
    honest, besides = (
        bound(PredictedRank(table(tmp_path, accuracies), [])).evaluate_all(HELD_OUT)
        for accuracies in (told, lies | told)
    )
    assert [score.value for score in honest] == [score.value for score in besides]


def test_trainings_and_scores_of_the_known_are_paid_for_once(tmp_path: Path) -> None:
    proxy = bound(PredictedRank(table(tmp_path, {name: worth(name) for name in KNOWN}, seconds=10.0), [Hint()]))
    assert proxy.overhead() == Cost(seconds=60.0 + 10.0 * len(KNOWN))
    assert proxy.evaluate(HELD_OUT[0]).cost == Cost(seconds=2.0, images=1)
    proxy.evaluate(HELD_OUT[1], report=lambda step, value: True)
    assert proxy.overhead() == Cost(seconds=60.0 + 12.0 * len(KNOWN), images=len(KNOWN))
    assert proxy.evaluate_all([]) == []


def test_a_proxy_that_fails_for_some_counts_as_its_worst(tmp_path: Path) -> None:
    known = table(tmp_path, {name: 1 / (1 + math.exp(-hidden(name))) for name in KNOWN})
    proxy = bound(PredictedRank(known, [Hint(invalid=(KNOWN[0].name, HELD_OUT[0].name))], choices=False))
    worst = min(KNOWN[1:], key=hidden)
    assert proxy(HELD_OUT[0]) == pytest.approx(proxy(worst))


def test_settings_tell_other_accuracies_apart_and_not_other_places(tmp_path: Path) -> None:
    told = {name: worth(name) for name in KNOWN}
    for folder in ("here", "there", "other"):
        (tmp_path / folder).mkdir()
    here = bound(PredictedRank(table(tmp_path / "here", told), [Hint()])).settings()
    assert bound(PredictedRank(table(tmp_path / "there", told), [Hint()])).settings() == here
    assert bound(PredictedRank(table(tmp_path / "other", told | {KNOWN[3]: 0.5}), [Hint()])).settings() != here


def test_what_is_beyond_all_numbers_counts_as_the_most_or_least_that_was_seen() -> None:
    inputs = np.array([[float(number), -math.inf] for number in range(10)])
    inputs[0, 0], inputs[9, 0] = -math.inf, np.finfo(np.float64).max / 4
    predictor = RankPredictor(inputs, np.arange(10.0))
    lowest, low, high, highest = predictor.predict(np.array([[number, 0.0] for number in (-math.inf, 1, 8, 1e300)]))
    assert lowest == low < high == highest


def test_a_broken_network_counts_as_the_last_and_no_more() -> None:
    inputs = np.linspace(0, 1, 20)[:, None]
    accuracies = 0.9 + 0.05 * inputs[:, 0]
    broken, hardly = accuracies.copy(), accuracies.copy()
    broken[0], hardly[0] = 0.1, 0.89
    assert RankPredictor(inputs, broken).predict(inputs) == RankPredictor(inputs, hardly).predict(inputs)


class PartsScorer(HintScorer):
    def features(self, architecture: Architecture, seed: int = 0) -> Features:
        noise = float(torch.randn((), generator=keyed_generator(1, architecture.name)))
        return Features((hidden(architecture) + noise, noise), Cost(seconds=3.0))


class Parts(Hint):
    """A hint whose two numbers tell more than its value, here both with the same noise."""

    name = "parts"
    scorer = PartsScorer


def test_all_numbers_of_a_proxy_can_be_inputs(tmp_path: Path) -> None:
    true = {name: 0.5 + 0.1 * hidden(name) for name in [*KNOWN, *HELD_OUT]}
    known = table(tmp_path, {name: true[name] for name in KNOWN})
    scorer = bound(PredictedRank(known, [Parts()], choices=False, features=True))
    scores = scorer.evaluate_all(HELD_OUT)
    assert spearmanr([score.value for score in scores], [true[name] for name in HELD_OUT]).statistic > 0.95
    assert {score.cost.seconds for score in scores} == {3.0}
    assert scorer.overhead().seconds == 60 + 3 * len(KNOWN)
    assert bound(PredictedRank(known, [Parts()], features=True)).evaluate_all([]) == []


def test_with_few_known_accuracies_a_prior_ranks_better_than_an_input(tmp_path: Path) -> None:
    true = {name: 0.5 + 0.1 * hidden(name) + 0.02 * worth(name) for name in [*KNOWN, *HELD_OUT]}
    known = table(tmp_path, {name: true[name] for name in KNOWN[:12]})
    found = []
    for proxy in (PredictedRank(known, []), PredictedRank(known, [Hint()]), PredictedRank(known, [], prior=Hint())):
        scores = [score.value for score in bound(proxy).evaluate_all(HELD_OUT)]
        found.append(spearmanr(scores, [true[name] for name in HELD_OUT]).statistic)
    assert found[2] > 0.9
    assert found[2] > found[1] > found[0]


def test_a_prior_is_paid_for_and_is_a_part_of_the_name_and_of_the_settings(tmp_path: Path) -> None:
    known = table(tmp_path, {name: worth(name) for name in KNOWN}, seconds=10.0)
    scorer, without = bound(PredictedRank(known, [], prior=Hint())), bound(PredictedRank(known, []))
    assert scorer.name == "predicted from choices, prior: hint"
    assert scorer.settings() != without.settings()
    assert scorer.evaluate(HELD_OUT[0]).cost == Cost(seconds=2.0, images=1)
    assert scorer.overhead() == Cost(seconds=60.0 + 12.0 * len(KNOWN), images=len(KNOWN))


@pytest.mark.parametrize("value", [3.0, 0.1, -math.inf])
def test_a_prior_of_equal_values_changes_nothing(value: float) -> None:
    random = np.random.default_rng(0)
    inputs, accuracies = random.standard_normal((20, 2)), random.integers(5, size=20) / 5
    alone = RankPredictor(inputs, accuracies).predict(inputs)
    prior = np.full(20, value)
    assert RankPredictor(inputs, accuracies, prior).predict(inputs, prior) == alone
    assert RankPredictor(inputs, accuracies, prior).predict(inputs, prior + 1) == alone


def test_a_prior_beyond_the_known_values_stays_in_proportion() -> None:
    inputs, prior = np.zeros((20, 1)), np.array([-30.0, *np.linspace(0, 1, 19)])
    predictor = RankPredictor(inputs, prior, prior)
    known = predictor.predict(inputs, prior)
    beyond = predictor.predict(np.zeros((3, 1)), np.array([-math.inf, 2.0, 10.0]))
    assert beyond[0] == pytest.approx(known[0])
    assert known[-1] < beyond[1] < beyond[2] < 100


def test_a_prior_that_misleads_is_corrected() -> None:
    random = np.random.default_rng(0)
    inputs, misleading = random.standard_normal((140, 3)), random.standard_normal(140)
    accuracies = 1 / (1 + np.exp(-inputs[:, 0] - 0.2 * misleading))
    found = []
    for prior in (None, accuracies + misleading):
        fitted = RankPredictor(inputs[:100], accuracies[:100], None if prior is None else prior[:100])
        predicted = fitted.predict(inputs[100:], None if prior is None else prior[100:])
        found.append(spearmanr(predicted, accuracies[100:]).statistic)
    assert found[1] > found[0]
    assert found[1] > 0.99


def test_a_prior_of_tiny_differences_is_no_error() -> None:
    inputs, prior = np.linspace(0, 1, 20)[:, None], 1e-300 * np.arange(20)
    assert np.isfinite(RankPredictor(inputs, inputs[:, 0], prior).predict(inputs, prior)).all()


def test_a_prior_is_given_to_fit_and_to_predict() -> None:
    inputs = np.linspace(0, 1, 10)[:, None]
    with pytest.raises(ValueError, match="prior must be given"):
        RankPredictor(inputs, inputs[:, 0], inputs[:, 0]).predict(inputs)
    with pytest.raises(ValueError, match="prior must not be given"):
        RankPredictor(inputs, inputs[:, 0]).predict(inputs, inputs[:, 0])


def test_a_proxy_that_ranks_among_those_scored_together_is_a_fixed_input(tmp_path: Path) -> None:
    known = table(tmp_path, {name: worth(name) for name in KNOWN})
    scorer = bound(PredictedRank(known, [MeanRank([Hint()], calibration=10)], prior=MeanRank([Hint()], calibration=10)))
    together = [score.value for score in scorer.evaluate_all(HELD_OUT[:5])]
    assert [scorer(one) for one in HELD_OUT[:5]] == pytest.approx(together)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    few = table(tmp_path, {name: worth(name) for name in [*KNOWN[:7], *HELD_OUT]})
    with pytest.raises(RecipeError, match="there are no inputs"):
        PredictedRank(few, [], choices=False)
    with pytest.raises(RecipeError, match="prior must be a Proxy, got a str"):
        PredictedRank(few, [], prior="SynFlow")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="held_out must be at least 0 and below 1, got 1"):
        PredictedRank(few, [], held_out=1)
    with pytest.raises(
        RecipeError, match=r"table\.csv must hold at least 8 architectures that are not held out, got 7"
    ):
        bound(PredictedRank(few, []))
