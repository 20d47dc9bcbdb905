"""Teaching learners without a meta-gradient."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gtn_lightning.curricula import Curriculum
from gtn_lightning.fields import Batch, chosen
from gtn_lightning.inner_loop import Functional, InnerOptimizer, InnerState, Snapshot, inner_step
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.task import Task
from gtn_lightning.teachers import Teacher, TeacherInput


class Lesson(NamedTuple):
    """A learner after an inner step."""

    step: int
    """Number of inner steps so far, from 1."""
    loss: Tensor
    """Inner loss of the step, a scalar."""
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
    """Train a learner on a teacher's data, and yield it after every inner step.

    Args:
        learner: the learner, not changed.
        task: the learner's task.
        teacher: makes the data.
        requests: the curriculum's requests, one per inner step.
        optimizer: the inner optimizer.
        mode: how the inner gradient is computed, a key of ``gtn_lightning.inner_loop.MODES``.
    """
    functional = Functional(learner)
    inner_loss, fields = task.inner_loss(functional), task.fields
    batches = teacher.batches(requests)
    params, buffers = functional.init()
    with torch.inference_mode(False), torch.no_grad():
        state = InnerState(params, buffers, optimizer.init(params))
    for step in range(len(requests)):
        # Lightning evaluates in inference_mode, in which an inner loop cannot run. Entered for every step separately,
        # so that the caller's modes apply between the steps.
        with torch.inference_mode(False), torch.no_grad():
            batch = next(batches)
            state, loss = inner_step(inner_loss, state, chosen(batch, fields), optimizer, step, mode)
        yield Lesson(step + 1, loss, Snapshot(state.params, state.buffers))


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
        learner: the learner, not changed.
        task: the learner's task.
        teacher: makes the data.
        requests: the curriculum's requests, one per inner step.
        optimizer: the inner optimizer.
        steps: numbers of inner steps after which the learner is returned.
        mode: how the inner gradient is computed, a key of ``gtn_lightning.inner_loop.MODES``.

    Returns:
        The learner after each of ``steps``, detached from any graph.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import Full
        >>> from gtn_lightning.inner_loop import SGD
        >>> from gtn_lightning.learners import MLP
        >>> from gtn_lightning.tasks import Classification
        >>> from gtn_lightning.teachers import Pixels
        >>> from gtn_lightning.teaching import teach
        >>> requests = Full(steps=3, batch_size=20, classes=10).requests(torch.Generator(), torch.device("cpu"))
        >>> network = MLP(shape=(1, 8, 8), outputs=10)
        >>> taught = teach(network, Classification(10), Pixels((1, 8, 8), 10, 60), requests, SGD(lr=0.1), [1, 3])
        >>> sorted(taught)
        [1, 3]
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
    """Train a learner with each of several constant learning rates and return the one that scores best at the end.

    Args:
        learner, task, teacher, requests, steps, mode: as for ``teach``.
        optimizer: the inner optimizer; its other hyperparameters have their initial values.
        rates: the learning rates to try.
        tuning_batch: real data on which the rate is chosen, disjoint from the data of reported scores.

    Returns:
        The best rate, and the learner trained with it after each of ``steps``.
    """
    functional, leading = Functional(learner), task.metrics()[0]
    best: tuple[float, float, dict[int, Snapshot]] | None = None
    for rate in rates:
        snapshots = teach(learner, task, teacher, requests, optimizer.constant(lr=rate), steps, mode)
        last = snapshots[max(steps)]
        metric = leading.fresh(tuning_batch[0].device)
        with torch.no_grad():
            task.score(functional, last.params, last.buffers, tuning_batch, [metric])
        score = leading.utility(float(metric.compute()))
        if best is None or score > best[0]:
            best = (score, rate, snapshots)
    assert best is not None
    return best[1], best[2]


def synthetic_batch(teacher: Teacher, curriculum: Curriculum, seed: int, step: int, device: torch.device) -> Batch:
    """Return a teacher's batch for an inner step, without gradient.

    With a random curriculum, it is one sample of the batches at this step.

    Args:
        teacher: makes the batch.
        curriculum: makes the requests.
        seed: seed of the sample.
        step: the inner step, counted from zero.
        device: device of the batch.
    """
    with torch.no_grad():
        requests = curriculum.requests(keyed_generator(seed, "predict"), device)
        return next(iter(teacher.batches([requests[step]])))
