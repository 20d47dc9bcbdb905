"""Teaching learners without a meta-gradient, and scoring what they have learned."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from gtn_lightning.inner_loop import Functional, InnerOptimizer, InnerState, Snapshot, inner_step
from gtn_lightning.tasks import Task
from gtn_lightning.teachers import Teacher, TeacherInput


@dataclass
class LearningCurve:
    """How well learners do against the number of inner steps they were taught for."""

    steps: list[int]
    """Numbers of inner steps, ascending; the last is the whole inner loop."""
    synthetic: Tensor
    """The task's metric after these steps on synthetic data, ``[learners, len(steps)]``."""
    real: Tensor | None
    """The same learners after as many steps on real data, the rate of each tuned; None without real training data."""


class Lesson(NamedTuple):
    """A learner after an inner step."""

    step: int
    """The number of inner steps so far, from 1."""
    loss: Tensor
    """The inner loss, a scalar, that the step descended."""
    learner: Snapshot
    """The learner's parameters and buffers."""


def lessons(
    learner: nn.Module,
    task: Task,
    teacher: Teacher,
    requests: Sequence[TeacherInput],
    optimizer: InnerOptimizer,
    mode: str = "auto",
) -> Iterator[Lesson]:
    """Train a learner on a teacher's data, one step each time that the next lesson is asked for.

    Args:
        learner: the learner, left as it is.
        task: what it is to learn.
        teacher: where its data comes from.
        requests: the curriculum's requests, one per inner step.
        optimizer: the inner optimizer.
        mode: how the inner gradient is computed, a key of ``gtn_lightning.inner_loop.MODES``.
    """
    functional = Functional(learner)
    inner_loss = task.inner_loss(functional)
    batches = teacher.batches(requests)
    params, buffers = functional.init()
    with torch.inference_mode(False), torch.no_grad():
        at = InnerState(params, buffers, optimizer.init(params))
    for step in range(len(requests)):
        # Lightning evaluates under inference_mode, in which an inner loop cannot run. Entered anew for every step: the
        # caller has modes of its own between two of them.
        with torch.inference_mode(False), torch.no_grad():
            batch = next(batches)
            at, loss = inner_step(inner_loss, at, (batch.inputs, batch.targets), optimizer, step, mode)
        yield Lesson(step + 1, loss, Snapshot(at.params, at.buffers))


def teach(
    learner: nn.Module,
    task: Task,
    teacher: Teacher,
    requests: Sequence[TeacherInput],
    optimizer: InnerOptimizer,
    steps: Sequence[int],
    mode: str = "auto",
) -> dict[int, Snapshot]:
    """Train a learner on a teacher's data.

    Args:
        learner: the learner, left as it is.
        task: what it is to learn.
        teacher: where its data comes from.
        requests: the curriculum's requests, one per inner step.
        optimizer: the inner optimizer.
        steps: numbers of inner steps after which the learner is wanted.
        mode: how the inner gradient is computed, a key of ``gtn_lightning.inner_loop.MODES``.

    Returns:
        The learner after these numbers of steps, without any graph.
    """
    taught = {0: Snapshot(*Functional(learner).init())} if 0 in steps else {}
    for lesson in lessons(learner, task, teacher, requests[: max(steps)], optimizer, mode):
        if lesson.step in steps:
            taught[lesson.step] = lesson.learner
    return taught


def teach_at_best_rate(
    learner: nn.Module,
    task: Task,
    teacher: Teacher,
    requests: Sequence[TeacherInput],
    optimizer: InnerOptimizer,
    steps: Sequence[int],
    rates: Sequence[float],
    tuning_batch: Sequence[Any],
    mode: str = "auto",
) -> tuple[float, dict[int, Snapshot]]:
    """Train a learner with each of several constant rates and keep the one that scores best after the last step.

    Args:
        learner, task, teacher, requests, steps, mode: as for ``teach``.
        optimizer: the inner optimizer; everything but its rate stays at its initial value.
        rates: the learning rates to try.
        tuning_batch: real data, not the data to be reported on, that decides between the rates.

    Returns:
        The best rate and the learner after the wanted numbers of steps with it.
    """
    functional = Functional(learner)
    best: tuple[float, float, dict[int, Snapshot]] | None = None
    for rate in rates:
        snapshots = teach(learner, task, teacher, requests, optimizer.constant(lr=rate), steps, mode)
        last = snapshots[max(steps)]
        metric = task.metric().to(tuning_batch[0].device)
        with torch.no_grad():
            task.score(functional, last.params, last.buffers, tuning_batch, metric)
        score = float(metric.compute()) * (1 if task.higher_is_better else -1)
        if math.isnan(score):  # a diverged learner; nothing would ever be better than NaN
            score = -math.inf
        if best is None or score > best[0]:
            best = (score, rate, snapshots)
    assert best is not None
    return best[1], best[2]


@dataclass
class _Subject:
    """A taught learner while it is being scored."""

    learner: Functional
    snapshots: dict[int, Snapshot]
    metrics: dict[int, Metric] = field(default_factory=dict)
    loss: MeanMetric = field(default_factory=lambda: MeanMetric(sync_on_compute=False))


class Examination:
    """Scores taught learners on real data, batch by batch, at several numbers of inner steps.

    Under DDP each process examines its own share of the learners on all of the data; the tables of all processes add
    up.

    Args:
        task: what the learners were taught.
        learners: number of learners over all processes.
        steps: the numbers of inner steps at which they are scored, ascending.
        device: where the metrics live.
    """

    def __init__(self, task: Task, learners: int, steps: Sequence[int], device: torch.device) -> None:
        self._task = task
        self._learners = learners
        self._steps = list(steps)
        self._device = device
        self._subjects: dict[int, _Subject] = {}

    def add(self, number: int, learner: nn.Module, snapshots: dict[int, Snapshot]) -> None:
        """Enter learner ``number`` as it was after each number of steps."""
        subject = _Subject(Functional(learner), snapshots)
        subject.metrics = {step: self._task.metric().to(self._device) for step in self._steps}
        subject.loss.to(self._device)
        self._subjects[number] = subject

    def score(self, batch: Sequence[Any]) -> None:
        """Score every learner entered on one batch of real data."""
        for subject in self._subjects.values():
            for step in self._steps:
                params, buffers = subject.snapshots[step]
                loss = self._task.score(subject.learner, params, buffers, batch, subject.metrics[step])
            # The loss after the last step alone is reported.
            subject.loss.update(loss, weight=len(batch[0]))

    def table(self) -> Tensor:
        """Return every learner's metric at every number of steps and then its loss, ``[learners, len(steps) + 1]``.

        Learners that were not entered here have rows of zeros.
        """
        table = torch.zeros(self._learners, len(self._steps) + 1, dtype=torch.float64, device=self._device)
        for number, subject in self._subjects.items():
            values = [subject.metrics[step].compute() for step in self._steps]
            table[number] = torch.stack([*values, subject.loss.compute()]).to(table)
        return table
