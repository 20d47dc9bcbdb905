"""The agreement of a training's responses to two equal changes."""

import doctest
import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.inner_loop import SGD, Buffers, Params, metasmoothness, unroll
from gtn_lightning.inner_loop import metasmoothness as function


def test_each_number_is_weighted_by_its_movement() -> None:
    def train(at: float) -> Params:
        # It goes on by 2, and turns round: -1, then 0.5 in the other direction.
        return {"straight": torch.tensor(2 * at), "bent": torch.tensor({0.0: 0.0, 1.0: -1.0, 2.0: -0.5}[at])}

    assert metasmoothness(train, lambda distance: distance, 1.0) == pytest.approx((4 - 0.5) / 4.5)


def test_a_response_of_noise_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    found = metasmoothness(lambda at: {"p": torch.randn(20_000, generator=generator)}, lambda distance: distance, 0.1)
    # Two differences of independent numbers share one of them: the signs disagree more often than not.
    assert -0.5 < found < 0.1


def test_a_training_at_too_large_a_rate_responds_at_random() -> None:
    inputs, targets, direction = torch.randn(64, 6), torch.arange(64) % 4, torch.randn(64)
    start = {"first": torch.randn(16, 6), "head": 0.3 * torch.randn(4, 16)}

    def loss_fn(params: Params, buffers: Buffers, weights: Tensor) -> tuple[Tensor, Buffers]:
        logits = (inputs @ params["first"].T).relu() @ params["head"].T
        return (weights * F.cross_entropy(logits, targets, reduction="none")).mean(), buffers

    def found(rate: float) -> float:
        def train(weights: Tensor) -> Params:
            return unroll(loss_fn, start, {}, [(weights,)] * 60, SGD(lr=rate, momentum=0.5)).params

        return metasmoothness(train, lambda distance: 1 + distance * direction, 0.1)

    assert found(0.1) > 0.9
    assert found(3.0) < 0.5


def test_random_numbers_of_the_training_are_the_same_in_all_three() -> None:
    def train(at: float) -> Params:
        return {"p": at * (1 + torch.rand(50)) + random.random()}

    assert metasmoothness(train, lambda distance: distance, 0.5) == 1


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="step must be above 0 and finite, got 0"):
        metasmoothness(lambda at: {"p": torch.ones(1)}, lambda distance: distance, 0)
    with pytest.raises(ValueError, match="does not change the trained parameters: take a larger step"):
        metasmoothness(lambda at: {"p": torch.ones(1)}, lambda distance: distance, 0.1)
    with pytest.raises(ValueError, match="not finite"):
        metasmoothness(lambda at: {"p": torch.tensor(at).log()}, lambda distance: distance, 0.1)


def test_the_example_of_its_docstring() -> None:
    example = doctest.DocTestFinder().find(function, "metasmoothness", globs={})[0]
    assert len(example.examples) > 5
    assert doctest.DocTestRunner().run(example).failed == 0
