"""Scores of fresh networks that are trained on synthetic data."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning import replay
from gtn_lightning.distilled.file import DistilledSet
from gtn_lightning.distilled.learners import Factory
from gtn_lightning.distilled.real import Samples
from gtn_lightning.randomness import keyed_rng

BATCH = 1000
"""Samples that a network is scored on at once."""


@dataclass(frozen=True)
class Metric:
    """How networks are scored: the accuracy of classes, or the root mean squared error of numbers."""

    name: str
    """``accuracy`` or ``rmse``."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.name == "accuracy"

    def of(self, network: nn.Module, samples: Samples) -> float:
        """Return a network's score; the network is in evaluation mode afterwards."""
        network.eval()
        with torch.no_grad():
            outputs = torch.cat([network(part) for part in samples.inputs.split(BATCH)])
        if self.name == "accuracy":
            return float((outputs.argmax(1) == samples.targets).float().mean())
        return float(F.mse_loss(outputs, samples.targets).sqrt())

    def text(self, values: Tensor) -> str:
        """Return scores as mean and standard deviation, in per cent for the accuracy."""
        spread = float(values.std(correction=0))
        if self.name == "accuracy":
            return f"{100 * float(values.mean()):.1f} ± {100 * spread:.1f} %"
        return f"{float(values.mean()):.3f} ± {spread:.3f}"

    def better(self, one: float, other: float) -> bool:
        """Return whether one score is better than another; a score that is no number is worse than all."""
        if math.isnan(one) or math.isnan(other):
            return math.isnan(other) and not math.isnan(one)
        return one > other if self.higher_is_better else one < other


def metric_of(data: DistilledSet) -> Metric:
    """Return the metric for a set's loss."""
    return Metric("accuracy" if data.card.loss == "cross_entropy" else "rmse")


def fresh(make: Factory, seed: int, number: int) -> nn.Module:
    """Return a new network whose parameters depend on the seed and its number alone."""
    with keyed_rng(seed, "fresh network", number, device=torch.device("cpu")):
        return make()


def replayed(
    make: Factory, data: DistilledSet, samples: Samples, count: int, seed: int, scale: float = 1.0, passes: int = 1
) -> Tensor:
    """Train fresh networks on synthetic data and return their scores on real samples, ``[count]``.

    Args:
        make: makes the networks.
        data: the synthetic data.
        samples: real data to score on.
        count: number of networks.
        seed: seed of their parameters.
        scale: what the learned rates are multiplied by.
        passes: how often the batches are gone through.
    """
    metric, card = metric_of(data), card_of(data)
    scores = []
    for number in range(count):
        network = fresh(make, seed, number)
        replay.train(network, data.tensors, card, scale, passes)
        scores.append(metric.of(network, samples))
    return torch.tensor(scores)


def card_of(data: DistilledSet) -> dict[str, Any]:
    """Return the part of a card that `gtn_lightning.replay` reads, as the file has it."""
    return {"fields": data.card.fields, "loss": data.card.loss, "optimizer": data.card.optimizer}
