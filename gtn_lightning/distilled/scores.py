"""Scores of fresh networks that are trained on synthetic data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning import replay
from gtn_lightning.distilled.episodes import EPISODES, Play
from gtn_lightning.distilled.file import DistilledSet
from gtn_lightning.distilled.learners import Factory
from gtn_lightning.distilled.real import Samples, real_samples
from gtn_lightning.randomness import keyed_rng

BATCH = 1000
"""Samples that a network is scored on at once."""


@dataclass(frozen=True)
class Metric:
    """How networks are scored: accuracy of classes, root mean squared error of numbers, or return of policies."""

    name: str
    """``accuracy``, ``rmse`` or ``return``."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.name != "rmse"

    def of(self, network: nn.Module, samples: Samples) -> float:
        """Return a network's score on samples; the network is in evaluation mode afterwards."""
        network.eval()
        with torch.no_grad():
            outputs = torch.cat([network(part) for part in samples.inputs.split(BATCH)])
        if self.name == "accuracy":
            return float((outputs.argmax(1) == samples.targets).float().mean())
        return float(F.mse_loss(outputs, samples.targets).sqrt())

    def number(self, value: float) -> str:
        """Return a score as text."""
        if self.name == "accuracy":
            return f"{100 * value:.1f} %"
        return f"{value:.1f}" if self.name == "return" else f"{value:.3f}"

    def text(self, values: Tensor) -> str:
        """Return scores as mean and standard deviation."""
        mean, spread = self.number(float(values.mean())), self.number(float(values.std(correction=0)))
        return f"{mean.removesuffix(' %')} ± {spread}"

    def better(self, one: float, other: float) -> bool:
        """Return whether one score is better than another; a score that is no number is worse than all."""
        if math.isnan(one) or math.isnan(other):
            return math.isnan(other) and not math.isnan(one)
        return one > other if self.higher_is_better else one < other

    def best(self, scores: Sequence[float]) -> int:
        """Return the place of the best score, the first of equal ones."""
        best = 0
        for place, score in enumerate(scores):
            if self.better(score, scores[best]):
                best = place
        return best


def metric_of(data: DistilledSet) -> Metric:
    """Return the metric for a set."""
    if plays(data):
        return Metric("return")
    return Metric("accuracy" if data.card.loss == "cross_entropy" else "rmse")


def plays(data: DistilledSet) -> bool:
    """Return whether a set is for policies, which are scored in an environment."""
    return str((data.card.data or {}).get("class_path")).endswith("EnvironmentData")


@dataclass(frozen=True)
class Judge:
    """Scores networks on the real task."""

    metric: Metric
    """The metric."""
    place: str
    """What they are scored on, for messages."""
    score: Callable[[nn.Module], float]
    """Returns a network's score."""


def judge_of(data: DistilledSet, path: str | None = None) -> Judge:
    """Return what scores networks: the test split of the real data, or the environment.

    Args:
        data: the synthetic data.
        path: where the real data lies; None for where the card says.

    Raises:
        RecipeError: if the real data cannot be read, or the environment not be made.
    """
    metric = metric_of(data)
    if plays(data):
        play = Play(data)
        return Judge(metric, f"{EPISODES} episodes of {play.name}", play)
    real = real_samples(data, path)
    place = f"{len(real.test.targets)} samples of the test split of {real.name}"
    return Judge(metric, place, lambda network: metric.of(network, real.test))


def fresh(make: Factory, seed: int, number: int) -> nn.Module:
    """Return a new network whose parameters depend on the seed and its number alone."""
    with keyed_rng(seed, "fresh network", number, device=torch.device("cpu")):
        return make()


def replayed(
    make: Factory,
    data: DistilledSet,
    score: Callable[[nn.Module], float],
    count: int,
    seed: int,
    scale: float = 1.0,
    passes: int = 1,
) -> Tensor:
    """Train fresh networks on synthetic data and return their scores, ``[count]``.

    Args:
        make: makes the networks.
        data: the synthetic data.
        score: scores a network, see `judge_of`.
        count: number of networks.
        seed: seed of their parameters.
        scale: what the learned rates are multiplied by.
        passes: how often the batches are gone through.
    """
    card = card_of(data)
    scores = []
    for number in range(count):
        network = fresh(make, seed, number)
        replay.train(network, data.tensors, card, scale, passes)
        scores.append(score(network))
    return torch.tensor(scores)


def card_of(data: DistilledSet) -> dict[str, Any]:
    """Return the part of a card that `gtn_lightning.replay` reads, as the file has it."""
    return {"fields": data.card.fields, "loss": data.card.loss, "optimizer": data.card.optimizer}
