"""Teaching learners without a meta-gradient."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gtn_lightning.curricula import Curriculum
from gtn_lightning.fields import Batch
from gtn_lightning.inner_loop import Functional, InnerOptimizer, InnerState, Snapshot, inner_step
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.task import Task
from gtn_lightning.teachers import Teacher, TeacherInput


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
    inner_loss, fields = task.inner_loss(functional), list(task.fields)
    batches = teacher.batches(requests)
    params, buffers = functional.init()
    with torch.inference_mode(False), torch.no_grad():
        at = InnerState(params, buffers, optimizer.init(params))
    for step in range(len(requests)):
        # Lightning evaluates under inference_mode, in which an inner loop cannot run. Entered anew for every step: the
        # caller has modes of its own between two of them.
        with torch.inference_mode(False), torch.no_grad():
            batch = next(batches)
            at, loss = inner_step(inner_loss, at, [batch[name] for name in fields], optimizer, step, mode)
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
    functional, leading = Functional(learner), task.metrics()[0]
    best: tuple[float, float, dict[int, Snapshot]] | None = None
    for rate in rates:
        snapshots = teach(learner, task, teacher, requests, optimizer.constant(lr=rate), steps, mode)
        last = snapshots[max(steps)]
        metric = leading.make().to(tuning_batch[0].device)
        with torch.no_grad():
            task.score(functional, last.params, last.buffers, tuning_batch, [metric])
        score = float(metric.compute()) * (1 if leading.higher_is_better else -1)
        if math.isnan(score):  # a diverged learner; nothing would ever be better than NaN
            score = -math.inf
        if best is None or score > best[0]:
            best = (score, rate, snapshots)
    assert best is not None
    return best[1], best[2]


def synthetic_batch(teacher: Teacher, curriculum: Curriculum, seed: int, step: int, device: torch.device) -> Batch:
    """Return the batch that a teacher makes for an inner step, without gradient.

    With a shuffled curriculum, or none, it is one keyed draw of many possible ones.

    Args:
        teacher: makes the batch.
        curriculum: what is asked of the teacher.
        seed: seed of that draw.
        step: which inner step, counted from zero.
        device: where the batch is wanted.
    """
    with torch.no_grad():
        requests = curriculum.requests(keyed_generator(seed, "predict"), device)
        return next(iter(teacher.batches([requests[step]])))
