"""Teaching without a meta-gradient, the tuned rate of the baseline, and the table of scores."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric

from gtn_lightning.curricula import Full
from gtn_lightning.evaluation import Scores
from gtn_lightning.inner_loop import SGD, Buffers, Functional
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs
from gtn_lightning.learners import MLP
from gtn_lightning.task import TaskMetric
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Pixels, TeacherInput
from gtn_lightning.teaching import teach, teach_at_best_rate

CPU = torch.device("cpu")
SHAPE, STEPS, BATCH, CLASSES = (1, 4, 4), 4, 12, 3


def requests() -> list[TeacherInput]:
    return Full(STEPS, BATCH, CLASSES).requests(torch.Generator(), CPU)


def teacher_of_stripes() -> Pixels:
    """Class c lights up row c, so that a few steps teach it."""
    torch.manual_seed(0)
    teacher = Pixels(SHAPE, CLASSES, STEPS * BATCH)
    with torch.no_grad():
        teacher.pixels.copy_(stripes(torch.arange(STEPS * BATCH) % CLASSES))
    return teacher


def stripes(labels: Tensor) -> Tensor:
    images = 0.3 * torch.randn(len(labels), *SHAPE)
    images[torch.arange(len(labels)), 0, labels] += 1
    return images


def learner() -> nn.Module:
    torch.manual_seed(1)
    return MLP(SHAPE, CLASSES, hidden=[8], norm="batch_running")


def test_teaching_is_ordinary_training() -> None:
    student, twin, teacher = learner(), learner(), teacher_of_stripes()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    taught = teach(student, Classification(CLASSES), teacher, requests(), SGD(0.3, 0.9, learned=["lr"]), [0, 2, STEPS])
    assert sorted(taught) == [0, 2, STEPS]
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3, momentum=0.9)
    for step in range(STEPS + 1):
        if step in taught:
            state = {name: tensor.detach() for name, tensor in twin.state_dict().items()}
            for name, tensor in {**taught[step].params, **taught[step].buffers}.items():
                assert not tensor.requires_grad
                torch.testing.assert_close(tensor, state[name])
        if step < STEPS:
            rows = torch.arange(step * BATCH, (step + 1) * BATCH)
            optimizer.zero_grad()
            F.cross_entropy(twin(teacher.pixels[rows].detach()), rows % CLASSES).backward()
            optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items()), "left as it is"


def test_teaching_works_where_lightning_evaluates() -> None:
    parts = learner(), Classification(CLASSES), teacher_of_stripes(), requests(), SGD(0.3), [STEPS]
    with torch.inference_mode():
        taught = teach(*parts)[STEPS]
    for name, tensor in teach(*parts)[STEPS].params.items():
        assert not taught.params[name].is_inference()
        torch.testing.assert_close(taught.params[name], tensor)


@pytest.mark.parametrize("draws", [False, True], ids=["running statistics", "dropout"])
def test_learners_taught_by_replays_are_those_of_ordinary_teaching(draws: bool) -> None:
    """Without a GPU, a replay is a call of the captured function."""

    def network() -> nn.Module:
        layer = nn.Dropout(0.5) if draws else nn.BatchNorm1d(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), layer, nn.Linear(5, CLASSES))

    graphs, teacher = CudaGraphs(CPU), teacher_of_stripes()
    optimizer = SGD(lr=0.1, momentum=0.5, learned_per_step=["lr"], steps=STEPS)
    for number in range(8):
        if number == 6:  # as meta-training moves it, in place
            with torch.no_grad():
                teacher.pixels.mul_(2)
        found = []
        for each in (None, graphs):
            torch.manual_seed(number)
            fresh, asked, task = network(), requests(), Classification(3)
            with torch.inference_mode():
                found.append(teach(fresh, task, teacher, asked, optimizer, [0, 2, STEPS], "remat", each))
        usual, replayed = found
        assert usual.keys() == replayed.keys() == {0, 2, STEPS}
        for step, (params, buffers) in usual.items():
            assert all(torch.equal(replayed[step].params[name], value) for name, value in params.items())
            assert all(torch.equal(replayed[step].buffers[name], value) for name, value in buffers.items())
    assert (graphs.captures, graphs.replays) == (1, 6)


def accuracy(params: Mapping[str, Tensor], buffers: Buffers, batch: Sequence[Tensor]) -> float:
    logits, _ = Functional(learner())(params, buffers, batch[0], training=False)
    return float((logits.argmax(dim=1) == batch[1]).float().mean())


def test_the_rate_is_the_best_on_the_tuning_data() -> None:
    labels = torch.arange(150) % CLASSES
    tuning = stripes(labels), labels
    optimizer, rates = SGD(lr=0.5, momentum=0.2, learned_per_step=["lr"], steps=STEPS), [1e-5, 0.3, 1e4]
    teacher = teacher_of_stripes()
    rate, taught = teach_at_best_rate(
        learner(), Classification(CLASSES), teacher, requests(), optimizer, [1, STEPS], rates, tuning
    )
    by_rate = {
        each: teach(learner(), Classification(CLASSES), teacher, requests(), SGD(each, momentum=0.2), [STEPS])
        for each in rates
    }
    scores = {each: accuracy(*snapshots[STEPS], tuning) for each, snapshots in by_rate.items()}
    assert rate == max(scores, key=lambda each: scores[each]) == 0.3
    assert scores[0.3] > max(scores[1e-5], scores[1e4]) + 0.2
    assert sorted(taught) == [1, STEPS]
    for name, tensor in by_rate[0.3][STEPS].params.items():
        torch.testing.assert_close(taught[STEPS].params[name], tensor)
    misleading = tuning[0], (labels + 1) % CLASSES
    other, _ = teach_at_best_rate(
        learner(), Classification(CLASSES), teacher, requests(), optimizer, [STEPS], rates, misleading
    )
    assert other != 0.3, "the tuning data decides"


class ByLoss(Classification):
    """Less is better, and a learner that diverged has no loss."""

    def metrics(self) -> list[TaskMetric]:
        make = partial(MeanMetric, nan_strategy=float("nan"), sync_on_compute=False)
        return [TaskMetric("loss", make, higher_is_better=False)]

    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metrics: Sequence[Metric],
    ) -> Tensor:
        loss = F.cross_entropy(learner(params, buffers, batch[0], training=False)[0], batch[1])
        metrics[0].update(loss)
        return loss


@pytest.mark.parametrize("rates", [[1e30, 1e-5, 0.3], [0.3, 1e30, 1e-5]])
def test_less_may_be_better_and_a_diverged_learner_never_is(rates: list[float]) -> None:
    labels = torch.arange(60) % CLASSES
    rate, _ = teach_at_best_rate(
        learner(),
        ByLoss(CLASSES),
        teacher_of_stripes(),
        requests(),
        SGD(),
        [STEPS],
        rates,
        (stripes(labels), labels),
    )
    assert rate == 0.3


def test_every_learner_is_scored_at_every_step_on_all_data() -> None:
    labels = torch.arange(50) % CLASSES
    images = stripes(labels)
    task, teacher, optimizer = Classification(CLASSES), teacher_of_stripes(), SGD(0.3)
    students = [learner(), MLP(SHAPE, CLASSES, hidden=[])]
    scores = Scores(task, 3, [0, 2, STEPS], CPU)
    taught = {}
    for number, student in zip((0, 2), students, strict=True):
        taught[number] = teach(student, task, teacher, requests(), optimizer, [0, 2, STEPS])
        scores.add(number, student, taught[number])
    with torch.no_grad():
        for rows in (slice(0, 32), slice(32, 50)):
            scores.update((images[rows], labels[rows]), torch.Generator())
    table = scores.table()
    assert table.shape == (3, 4)
    assert not table[1].any(), "another process's learner"
    for number, student in zip((0, 2), students, strict=True):
        for column, step in enumerate([0, 2, STEPS]):
            with torch.no_grad():
                logits, _ = Functional(student)(*taught[number][step], images, training=False)
            assert float(table[number, column]) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
        assert float(table[number, 3]) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert table[0, 2] > table[0, 0] + 0.2
