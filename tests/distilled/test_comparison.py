"""Synthetic data beside real data of the same size and cost."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from gtn_lightning.distilled import Card, DistilledSet, comparison
from gtn_lightning.distilled.comparison import (
    Comparison,
    Row,
    _balanced,
    _Bench,
    _herding,
    _k_center,
    _sources,
    compare,
)
from gtn_lightning.distilled.learners import home_learners
from gtn_lightning.distilled.real import RealSamples, Samples, real_samples
from gtn_lightning.distilled.scores import Metric, judge_of, metric_of, replayed
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import LARS
from gtn_lightning.learners import MLP
from tests.distilled.sets import digits_set


@pytest.fixture(scope="module")
def digits() -> tuple[DistilledSet, RealSamples]:
    """Real digits in the place of synthetic ones: 4 steps of 20 with constant rates."""
    made = digits_set(LARS(0.1, 0.5), steps=4, batch_size=20, soft=True)
    return made, real_samples(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": [10**6, 10**6]}, r"has 1,0\d\d,[\d,]* parameters, expected at most 100,000,000"),
        ({"outputs": 3}, r"'MLP' of the file: expected outputs \[20, 10\] for 20 inputs, got \[20, 3\]"),
        ({"shape": [5]}, r"'MLP' of the file: cannot take inputs of shape \[20, 1, 8, 8\]"),
        ({"hidden": "many"}, "the networks of the file cannot be made"),
        ({"nothing": 1}, "the networks of the file cannot be made"),
    ],
)
def test_networks_of_a_file_that_do_not_fit_are_refused(
    digits: tuple[DistilledSet, RealSamples], arguments: dict[str, Any], message: str
) -> None:
    given = {"shape": [1, 8, 8], "outputs": 10} | arguments
    learner = {"class_path": "gtn_lightning.learners.MLP", "init_args": given}
    learners = {"class_path": "gtn_lightning.learners.Fixed", "init_args": {"learner": learner}}
    made = replace(digits[0], card=replace(digits[0].card, learners=learners))
    with pytest.raises(RecipeError, match=message):
        home_learners(made)


LINEAR = partial(MLP, (1, 8, 8), 10, hidden=[], init="torch")


def test_real_data_has_as_many_samples_as_are_different_and_all_of_it_new_ones_at_every_step(
    digits: tuple[DistilledSet, RealSamples],
) -> None:
    made, real = digits
    once = {name: made.tensors[name][:1] for name in made.card.fields}
    repeated = made.tensors | {name: field.repeat(4, *[1] * (field.ndim - 1)) for name, field in once.items()}
    few = replace(made, tensors=repeated)
    assert (made.samples, few.samples) == (80, 20)
    bench = _Bench(few, real, {"linear": LINEAR}, 1, 0, [1, 3], [50])
    courses = {name: make()[0](0) for name, make in _sources(few, real, bench, 0)}
    different = {name: len(batches.inputs.flatten(0, 1).unique(dim=0)) for name, batches in courses.items()}
    assert different.pop("all real data, as many steps") == 3 * 80
    assert set(different.values()) == {20}


def test_every_source_is_scored_on_every_architecture(digits: tuple[DistilledSet, RealSamples]) -> None:
    made, real = digits
    result = compare(made, real, networks=2, passes=[1, 5], learners={"linear": LINEAR})
    assert [row.source for row in result.rows] == [
        "synthetic",
        "synthetic, rates scaled",
        "synthetic, hard labels",
        "random real subset",
        "random real subset, best soft labels",
        "real subset by k-center",
        "real subset by herding",
        "all real data, as many steps",
        "all real data, to the end",
    ]
    first, scaled, hard, *_, last = result.rows
    assert first.scores["linear", 1].shape == (2,)
    # The labels are one-hot, so that both are the same.
    assert torch.equal(first.scores["linear", 1], hard.scores["linear", 1])
    assert float(first.scores["linear", 1].mean()) > 0.5
    assert result.mean(scaled, 1) >= result.mean(first, 1) - 0.02
    assert result.mean(first, 5) > result.mean(first, 1)
    assert result.mean(last, 1) > 0.9


def test_a_rate_that_is_too_high_for_an_architecture_is_scaled(digits: tuple[DistilledSet, RealSamples]) -> None:
    made, real = digits
    fast = replace(made, tensors=made.tensors | {"lr": 30 * made.tensors["lr"]})
    sources = ["synthetic", "synthetic, rates scaled"]
    result = compare(fast, real, networks=2, passes=[1], learners={"linear": LINEAR}, sources=sources)
    as_learned, scaled = (result.mean(row, 1) for row in result.rows)
    assert scaled > as_learned + 0.1


def test_a_score_is_the_same_as_replay_gives(digits: tuple[DistilledSet, RealSamples]) -> None:
    made, real = digits
    result = compare(made, real, networks=2, passes=[1], learners={"linear": LINEAR})
    assert torch.equal(result.rows[0].scores["linear", 1], replayed(LINEAR, made, judge_of(made).score, 2, 0))


def test_real_data_has_as_many_samples_as_there_are_different_synthetic_ones(
    digits: tuple[DistilledSet, RealSamples], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = digits
    # Four epochs of the same twenty images.
    again = {name: made.tensors[name][:1].expand_as(made.tensors[name]) for name in ("inputs", "targets")}
    few = DistilledSet({**made.tensors, **again}, made.card)
    trained_on = []
    train = comparison.replay.train

    def recorded(network: torch.nn.Module, fields: dict[str, torch.Tensor], *others: object, **options: object) -> None:
        trained_on.append(fields["inputs"])
        train(network, fields, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison.replay, "train", recorded)
    result = compare(few, real, networks=2, passes=[1], learners={"linear": LINEAR}, sources=["random real subset"])
    assert [row.source for row in result.rows] == ["random real subset"]
    assert {len(inputs.flatten(0, 1).unique(dim=0)) for inputs in trained_on} == {20}
    assert all(inputs.shape == made.inputs.shape for inputs in trained_on)
    with pytest.raises(RecipeError, match=r"sources must be among synthetic, .*, got real"):
        compare(few, real, learners={"linear": LINEAR}, sources=["real"])


def test_architectures_that_real_data_teaches_better_are_named() -> None:
    rows = [
        Row("synthetic", False, {("a", 1): torch.tensor([0.9]), ("b", 1): torch.tensor([0.5])}),
        Row("random real subset", True, {("a", 1): torch.tensor([0.8]), ("b", 1): torch.tensor([0.6])}),
        Row("all real data, to the end", False, {("a", 1): torch.tensor([1.0]), ("b", 1): torch.tensor([1.0])}),
    ]
    assert Comparison(Metric("accuracy"), ["a"], ["b"], [1], rows).below(1) == {"b": ["random real subset"]}
    scaled = Row("synthetic, rates scaled", False, {("a", 1): torch.tensor([0.9]), ("b", 1): torch.tensor([0.7])})
    assert Comparison(Metric("accuracy"), ["a"], ["b"], [1], [*rows, scaled]).below(1, scaled.source) == {}
    assert Comparison(Metric("rmse"), ["a"], ["b"], [1], rows).below(1) == {"a": ["random real subset"]}


def test_a_subset_is_balanced_and_random() -> None:
    targets = torch.arange(60) % 3
    rows = _balanced(targets, 9, 3, seed=0, number=0)
    assert targets[rows].bincount().tolist() == [3, 3, 3]
    assert len(set(rows.tolist())) == 9
    assert rows.tolist() != _balanced(targets, 9, 3, seed=0, number=1).tolist()


def test_k_center_takes_the_farthest_and_herding_keeps_the_mean() -> None:
    features = torch.tensor([[0.0], [0.1], [0.2], [9.0], [0.15]])
    samples = Samples(features, torch.zeros(5, dtype=torch.int64))
    assert 3 in _k_center(samples, 2, 1).tolist()
    samples = Samples(torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]]), torch.zeros(5, dtype=torch.int64))
    chosen = _herding(samples, 3, 1)
    assert float(samples.inputs[chosen].mean()) == pytest.approx(2.0)


def test_numbers_are_compared_by_their_error() -> None:
    card = Card(["inputs", "targets"], "mse_loss", {"name": "LARS", "hyperparameters": ["lr", "momentum", "eps"]})
    card.optimizer["nesterov"] = False
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 10, 3, generator=generator)
    made = DistilledSet({"inputs": inputs, "targets": inputs[..., :1], **LARS().schedules(6)}, card)
    rows = torch.randn(200, 3, generator=generator)
    real = RealSamples(*(Samples(part, part[:, :1]) for part in rows.split([120, 40, 40])), name="rows")
    make = partial(MLP, (3,), 1, hidden=[], init="torch")
    assert metric_of(made).name == "rmse"
    result = compare(made, real, networks=2, passes=[1], learners={"linear": make})
    assert [row.source for row in result.rows] == [
        "synthetic", "synthetic, rates scaled", "random real subset", "all real data, as many steps",
        "all real data, to the end",
    ]  # fmt: skip
    assert result.mean(result.rows[-1], 1) < 0.05


def test_training_to_the_end_ends_when_time_is_up(digits: tuple[DistilledSet, RealSamples]) -> None:
    made, real = digits
    only: dict[str, Any] = {"sources": ["all real data, to the end"], "learners": {"linear": LINEAR}}
    (ended,) = compare(made, real, 1, [1], **only).rows
    (stopped,) = compare(made, real, 1, [1], most_seconds=0.0, **only).rows
    assert ended.source == "all real data, to the end"
    assert stopped.source == "all real data, until time was up"
    assert float(stopped.scores["linear", 1]) < float(ended.scores["linear", 1])
