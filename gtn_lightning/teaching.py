"""Teaching learners without a meta-gradient."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gtn_lightning.captures import filled, obstacle, pattern_of, settings, tensors_of
from gtn_lightning.curricula import Curriculum
from gtn_lightning.fields import Batch, chosen
from gtn_lightning.inner_loop import (
    Buffers,
    Functional,
    InnerOptimizer,
    InnerState,
    LossFn,
    Params,
    Snapshot,
    inner_step,
)
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs, Function, Results
from gtn_lightning.inner_loop.replay import AutocastState
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.task import Task
from gtn_lightning.teachers import Teacher, TeacherInput

WHAT = "the teaching of an evaluation"
"""What is captured, in warnings."""


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
    return _lessons(task.inner_loss(functional), *functional.init(), task, teacher, requests, optimizer, mode)


def _lessons(
    inner_loss: LossFn,
    params: Params,
    buffers: Buffers,
    task: Task,
    teacher: Teacher,
    requests: Sequence[TeacherInput],
    optimizer: InnerOptimizer,
    mode: str,
) -> Iterator[Lesson]:
    fields = task.fields
    batches = teacher.batches(requests)
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
    graphs: CudaGraphs | None = None,
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
        graphs: captures the training and replays it, if possible; None trains as usual.

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
    requests = requests[: max(steps)]
    if graphs is not None:
        if (reason := obstacle(graphs.device, teacher=teacher, inner_optimizer=optimizer)) is None:
            with torch.inference_mode(False), torch.no_grad():
                return _captured(learner, task, teacher, requests, optimizer, steps, mode, graphs)
        graphs.say(WHAT, reason)
    taught = {0: Snapshot(*Functional(learner).init())} if 0 in steps else {}
    for lesson in lessons(learner, task, teacher, requests, optimizer, mode):
        if lesson.step in steps:
            taught[lesson.step] = lesson.learner
    return taught


def _captured(
    learner: nn.Module,
    task: Task,
    teacher: Teacher,
    requests: Sequence[TeacherInput],
    optimizer: InnerOptimizer,
    steps: Sequence[int],
    mode: str,
    graphs: CudaGraphs,
) -> dict[int, Snapshot]:
    """Train a learner as one CUDA graph, after two learners of its architecture as usual."""
    start = Snapshot(*Functional(learner).init())
    names = tuple(start.params), tuple(start.buffers)
    wanted = sorted({*steps} - {0})

    def prepare() -> Function:
        inner_loss = task.inner_loss(Functional(learner.to(graphs.device)))

        def function(tensors: Sequence[Tensor]) -> Results:
            rest = iter(tensors)
            params, buffers = ({name: next(rest) for name in part} for part in names)
            asked = filled(requests, rest)
            results: Results = []
            with AutocastState.current(graphs.device).context():
                for lesson in _lessons(inner_loss, params, buffers, task, teacher, asked, optimizer, mode):
                    if lesson.step in wanted:
                        results += [*lesson.learner.params.values(), *lesson.learner.buffers.values()]
            return results

        return function

    key = (
        (names, tuple(wanted), mode, AutocastState.current(graphs.device), pattern_of(requests)),
        *(settings(part) for part in (task, teacher, optimizer)),
    )
    given = [*start.params.values(), *start.buffers.values(), *tensors_of(requests)]
    results = graphs.run(WHAT, key, [learner], given, prepare) if wanted else []
    rest = (result for result in results if result is not None)
    after = {step: Snapshot(*({name: next(rest) for name in part} for part in names)) for step in wanted}
    return {0: start} | after if 0 in steps else after


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
