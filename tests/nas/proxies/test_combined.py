"""Mean ranks of hand-made values."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score, Scorer
from gtn_lightning.nas.proxies.combined import MeanRank, MeanRankScorer
from gtn_lightning.nas.spaces import Architecture, Choice, SearchSpace


class Letters(SearchSpace):
    """Architectures that are letters; none can be built."""

    def __init__(self, letters: str) -> None:
        self.decisions = {"letter": list(letters)}

    def name(self, choices: Mapping[str, Choice]) -> str:
        return str(choices["letter"])

    def choices(self, name: str) -> dict[str, Choice]:
        return {"letter": name}

    def build(self, architecture: Architecture) -> nn.Module:
        raise NotImplementedError


class KnownScorer(Scorer):
    """Values by name, each for a second, after a minute."""

    proxy: "Known"

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        assert report is None
        self.proxy.asked.append((architecture.name, seed))
        return Score(self.proxy.values[architecture.name], Cost(seconds=1.0, images=3))

    def overhead(self) -> Cost:
        return Cost(seconds=60.0)


class Known(Proxy):
    """Values by name, and who asked for them."""

    scorer = KnownScorer

    def __init__(self, name: str = "known", **values: float) -> None:
        self.name = name
        self.values = values
        self.asked: list[tuple[str, int]] = []


def bound(proxy: Proxy, letters: str) -> Scorer:
    return proxy.bind(Letters(letters), DigitsData(32))


def letter(name: str) -> Architecture:
    """An architecture, also of none of the letters."""
    return Architecture(name, {"letter": name})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["GTN"], "mean rank of GTN"),
        (["GTN", "parameters"], "mean rank of GTN and parameters"),
        (["GTN", "FLOPs", "naswot"], "mean rank of GTN, FLOPs and naswot"),
    ],
)
def test_it_is_named_after_its_parts(names: list[str], expected: str) -> None:
    assert MeanRank([Known(name) for name in names]).name == expected


def test_architectures_scored_together_are_ranked_among_each_other() -> None:
    first = Known(a=5.0, b=7.0, c=5.0, d=100.0)
    second = Known(a=math.nan, b=0.1, c=-math.inf, d=0.0)
    scorer = bound(MeanRank([first, second]), "abcd")
    scores = scorer.evaluate_all([letter(name) for name in "abcd"], seed=3)
    # The first's ranks of four: 1.5, 3, 1.5, 4. The second's: 1.5, 4, 1.5, 3.
    assert [score.value for score in scores] == pytest.approx([1.5 / 4, 3.5 / 4, 1.5 / 4, 3.5 / 4])
    assert scores[0].cost == Cost(seconds=2.0, images=6)
    assert first.asked == second.asked == [(name, 3) for name in "abcd"]
    assert scorer.overhead() == Cost(seconds=120.0)
    assert scorer.evaluate_all([]) == []


def test_every_part_counts_alike_whatever_its_scale() -> None:
    first, second = Known(a=1.0, b=2.0, c=3.0), Known(a=1e9, b=-1e9, c=0.0)
    values = [
        score.value for score in bound(MeanRank([first, second]), "abc").evaluate_all([letter(name) for name in "abc"])
    ]
    assert values == pytest.approx([4 / 6, 3 / 6, 5 / 6])


def test_a_candidate_is_placed_among_the_sample() -> None:
    known = Known(a=1.0, b=2.0, c=2.0, d=6.0, low=0.0, between=4.0, high=10.0, higher=14.0)
    scorer = bound(MeanRank([known], calibration=4), "abcd")
    # Ranks of the sample, over four: 1 for a, 2.5 for b and c, 4 for d.
    assert [scorer(letter(name)) for name in "abcd"] == pytest.approx([1 / 4, 2.5 / 4, 2.5 / 4, 1])
    assert scorer(letter("between")) == pytest.approx(3.25 / 4)
    assert scorer(letter("low")) == pytest.approx((1 - 1.5) / 4)
    assert scorer(letter("high")) == pytest.approx(1 + 1.5 / 4)
    assert scorer(letter("higher")) == pytest.approx(1 + 3 / 4)


def test_two_values_that_lie_close_make_no_cliff_of_what_is_beyond() -> None:
    letters = "abcdefghijkl"
    values = {letter: float(number) for number, letter in enumerate(letters)} | {"l": 10.0 + 1e-9}
    scorer = bound(MeanRank([Known(**values, beyond=12.0)], calibration=12), letters)
    # The outer quarter of the values goes from 8 to 10, three ranks of twelve higher.
    assert scorer(letter("beyond")) == pytest.approx(1 + 3 / 12, rel=1e-6)


def test_what_has_no_value_is_never_above_what_has_one() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "awful": -1e6, "none": math.nan, "minus": -math.inf}
    scorer = bound(MeanRank([Known(**values)], calibration=3), "abc")
    assert scorer(letter("none")) == scorer(letter("minus")) == -1
    assert scorer(letter("awful")) == -1

    values |= {"a": math.nan, "b": -math.inf, "d": 4.0}
    scorer = bound(MeanRank([Known(**values)], calibration=4), "abcd")
    assert scorer(letter("none")) == scorer(letter("minus")) == scorer(letter("a")) == 1.5 / 4
    assert scorer(letter("awful")) == 1.5 / 4
    assert scorer(letter("c")) == 3 / 4


def test_a_sample_of_one_value_or_none_tells_better_from_worse() -> None:
    values = {"a": 2.0, "b": 2.0, "less": 1.0, "more": 3.0, "endless": math.inf}
    scorer = bound(MeanRank([Known(**values)], calibration=2), "ab")
    assert scorer(letter("less")) < scorer(letter("a")) < scorer(letter("more")) == scorer(letter("endless"))
    nothing = bound(MeanRank([Known(a=math.nan, b=math.nan, c=0.0)], calibration=2), "ab")
    assert nothing(letter("a")) < nothing(letter("c"))


def test_the_mean_of_positions_is_taken_and_the_sample_is_paid_for_once() -> None:
    first, second = Known(a=0.0, b=1.0, x=0.5), Known(a=1.0, b=0.0, x=1.0)
    scorer = bound(MeanRank([first, second], calibration=2), "ab")
    assert scorer.overhead() == Cost(seconds=120.0)
    score = scorer.evaluate(letter("x"), seed=5, report=lambda step, value: True)
    assert score.value == pytest.approx((0.75 + 1.0) / 2)
    assert score.cost == Cost(seconds=2.0, images=6)
    scorer.evaluate(letter("x"))
    assert scorer.overhead() == Cost(seconds=124.0, images=12)
    assert len(first.asked) == len(second.asked) == 4
    assert first.asked[2:] == [("x", 5), ("x", 0)]


def test_the_sample_is_always_the_same() -> None:
    letters = "abcdefghijklmnop"
    samples = []
    for _ in range(2):
        known = Known(**{letter: float(ord(letter)) for letter in letters})
        torch.rand(1)
        state = torch.get_rng_state()
        bound(MeanRank([known], calibration=5), letters)(letter("a"))
        assert torch.equal(torch.get_rng_state(), state)
        samples.append(known.asked[:-1])
    assert samples[0] == samples[1]
    assert len({*samples[0]}) == 5


def test_parts_are_bound_too_and_another_space_has_another_sample() -> None:
    proxy = MeanRank([Known(a=0.0, b=1.0, c=2.0, d=3.0)], calibration=2)
    first, other = bound(proxy, "ab"), bound(proxy, "cd")
    assert isinstance(first, MeanRankScorer)
    assert first.parts[0].space is first.space
    assert first.parts[0].data is first.data
    assert first("b") == 1
    assert other.overhead() == Cost(seconds=60.0)
    assert other("d") == 1


def test_nothing_to_rank_by_or_among_is_refused() -> None:
    with pytest.raises(RecipeError, match="proxies is empty"):
        MeanRank([])
    with pytest.raises(RecipeError, match="calibration must be at least 2, got 1"):
        MeanRank([Known()], calibration=1)
    with pytest.raises(RecipeError, match="ask for fewer"):
        bound(MeanRank([Known(a=1.0, b=2.0)], calibration=3), "ab")("a")


class Lengths(Proxy):
    """A proxy in one class: the longer the name, the better."""

    name = "length"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        assert self.space.parse(architecture).choices == architecture.choices  # type: ignore[attr-defined]
        return Score(self.factor * len(architecture), Cost())


def test_a_proxy_may_evaluate_by_itself() -> None:
    proxy = Lengths(2.0)
    scorer = bound(proxy, "ab")
    assert [scorer(name) for name in "ab"] == [2.0, 2.0]
    assert not hasattr(proxy, "space"), "the proxy is not changed"
    assert scorer.settings()["init_args"] == {"factor": 2.0}
