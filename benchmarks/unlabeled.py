"""Scores of networks that were taught without labels, on a test split."""

from typing import Any

import torch
from torch import Tensor, nn

from gtn_lightning.data import InMemoryData
from gtn_lightning.inner_loop import Functional
from gtn_lightning.probe import probes
from gtn_lightning.task import Task


def score(task: Task, learner: nn.Module, taught: Any, data: InMemoryData) -> list[float]:
    """Return a learner's metrics on the test split."""
    metrics = [metric.fresh(torch.device("cpu")) for metric in task.metrics()]
    functional = Functional(learner)
    with torch.no_grad():
        for inputs, *others in data.test_dataloader():
            task.score(functional, taught.params, taught.buffers, (data.normalize(inputs), *others), metrics)
    return [float(metric.compute()) for metric in metrics]


def probed(features: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Return the accuracies of the probes of features."""
    made = [make() for make in probes(classes).values()]
    for probe in made:
        probe.update(features, labels)
    return [float(probe.compute()) for probe in made]
