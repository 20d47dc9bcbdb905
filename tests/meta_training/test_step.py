"""The meta-gradient of a meta-step, for fields of every kind, against central differences and plain autograd."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torchmetrics import MeanMetric, Metric

from gtn_lightning import GTN
from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData
from gtn_lightning.fields import Field, Fields
from gtn_lightning.inner_loop import MODES, SGD, Buffers, Functional, InnerLoop, LossFn
from gtn_lightning.inner_loop.compiler import program
from gtn_lightning.inner_loop.modes.fused import Fused
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.meta_training.step import meta_step, mode_of
from gtn_lightning.parts import Parts
from gtn_lightning.task import Task, TaskMetric, Taught
from gtn_lightning.tasks import Classification, Regression
from gtn_lightning.teachers import FreeTensors
from tests.tiny import make_gtn, make_trainer, same

CPU = torch.device("cpu")
STEPS, BATCH, WIDTH = 3, 6, 4
PLACE = (0, 0, 0)


pytestmark = pytest.mark.usefixtures("double")


class Imitation(Task):
    """States and action probabilities inside; outside, the loss on states that the learner is let loose on."""

    @property
    def fields(self) -> Fields:
        return {"states": Field("real", (WIDTH,)), "actions": Field("probabilities", classes=3)}

    def inner_loss(self, learner: Functional) -> LossFn:
        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, states: Tensor, actions: Tensor
        ) -> tuple[Tensor, Buffers]:
            logits, buffers = learner(params, buffers, states)
            return F.cross_entropy(logits, actions), buffers

        return loss

    def meta_loss(self, learner: Functional) -> LossFn:
        def loss(params: Mapping[str, Tensor], buffers: Buffers, states: Tensor) -> tuple[Tensor, Buffers]:
            logits, buffers = learner(params, buffers, states)
            return logits.softmax(1)[:, 0].square().mean(), buffers

        return loss

    def experience(
        self, taught: Sequence[Taught], batch: Any, generator: torch.Generator, training: bool
    ) -> list[list[Tensor]]:
        assert training
        assert not torch.is_grad_enabled()
        return [[batch[0] + torch.randn(batch[0].shape, generator=generator)] for _ in taught]

    def meta_steps(self, steps: int) -> list[int]:
        return [steps - 1, steps]

    def metrics(self) -> list[TaskMetric]:
        return [TaskMetric("reward", MeanMetric)]

    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metrics: Sequence[Metric],
    ) -> Tensor:
        raise NotImplementedError

    def check(self, learner: nn.Module, batch: Sequence[Any]) -> None:
        return


def made(task: Task, classes: int | None, mode: str = "remat", **options: Any) -> Parts:
    torch.manual_seed(0)
    outputs = 2 if isinstance(task, Regression) else 3
    return Parts(
        FreeTensors(dict(task.fields), STEPS * BATCH, **options),
        Full(STEPS, BATCH, classes),
        Fixed(partial(MLP, (WIDTH,), outputs, hidden=[5], activation="tanh")),
        SGD(lr=0.3, momentum=0.5, learned_per_step=["lr", "momentum"], steps=STEPS),
        task,
        InnerLoop(STEPS, mode),
        seed=0,
    )


def rows(targets: Tensor) -> list[Tensor]:
    return [torch.randn(len(targets), WIDTH, generator=torch.Generator().manual_seed(1)), targets]


CASES: dict[str, Any] = {
    "classes": (lambda: Classification(3, shape=(WIDTH,)), 3, {}, lambda: rows(torch.arange(9) % 3)),
    "soft labels": (
        lambda: Classification(3, 1, (WIDTH,)),
        3,
        {"soft_labels": True},
        lambda: rows(torch.arange(9) % 3),
    ),
    "learned numbers": (lambda: Regression(2, 0, (WIDTH,)), None, {}, lambda: rows(torch.randn(9, 2))),
    "probabilities and experience": (Imitation, None, {}, lambda: rows(torch.zeros(9))[:1]),
}


@pytest.mark.parametrize("mode", ["reverse", "remat", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_central_differences(case: str, mode: str) -> None:
    task, classes, options, data = CASES[case]
    parts, real = made(task(), classes, mode, **options), data()
    for part in (parts.teacher, parts.inner_optimizer):
        parameters = list(part.parameters())
        loss, _ = meta_step(parts, 1, real, PLACE, CPU)
        gradient = parameters_to_vector(torch.autograd.grad(loss, parameters))
        before = parameters_to_vector(parameters).detach().clone()
        direction = torch.randn_like(before)
        losses = []
        for distance in (1e-5, -1e-5):
            vector_to_parameters(before + distance * direction, parameters)
            losses.append(float(meta_step(parts, 1, real, PLACE, CPU)[0].detach()))
        vector_to_parameters(before, parameters)
        quotient = (losses[0] - losses[1]) / 2e-5
        assert abs(quotient) > 1e-6
        assert float(gradient @ direction) == pytest.approx(quotient, rel=1e-5)


def test_learned_targets_by_plain_autograd() -> None:
    parts, real = made(Regression(2, 0, (WIDTH,)), None), rows(torch.randn(9, 2))
    loss, _ = meta_step(parts, 1, real, PLACE, CPU)
    assert isinstance(parts.teacher, FreeTensors)
    inputs, targets = parts.teacher.tensors["inputs"], parts.teacher.tensors["targets"]
    found = torch.autograd.grad(loss, [inputs, targets])

    learners: list[nn.Module] = []
    sample = parts.learners.sample
    parts.learners.sample = lambda generator: learners.append(sample(generator)) or learners[-1]  # type: ignore[method-assign, func-returns-value]
    meta_step(parts, 1, real, PLACE, CPU)
    weights = dict(learners[0].named_parameters())
    speed = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rates = {name: values.detach() for name, values in parts.inner_optimizer.schedules(STEPS).items()}
    for step in range(STEPS):
        chosen = slice(step * BATCH, (step + 1) * BATCH)
        outputs = torch.func.functional_call(learners[0], weights, (inputs[chosen],))
        slopes = torch.autograd.grad(
            (outputs - targets[chosen]).square().mean(), list(weights.values()), create_graph=True
        )
        for (name, weight), slope in zip(list(weights.items()), slopes, strict=True):
            speed[name] = rates["momentum"][step] * speed[name] + slope
            weights[name] = weight - rates["lr"][step] * speed[name]
    outputs = torch.func.functional_call(learners[0], weights, (real[0],))
    expected = torch.autograd.grad((outputs - real[1]).square().mean(), [inputs, targets])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_too_short_to_gain_is_not_compiled() -> None:
    loop = InnerLoop(steps=10, mode="fused")
    planned = (1, 499, 500, -1)
    assert [mode_of(loop, 1, meta_steps) for meta_steps in planned] == ["remat", "remat", "fused", "fused"]
    assert [mode_of(loop, 12, meta_steps) for meta_steps in (500, 5999, 6000)] == ["remat", "remat", "fused"]
    assert mode_of(loop, None, -1) == "remat"
    assert mode_of(InnerLoop(steps=10, mode="compiled"), None, 1) == "compiled"


def test_a_resumed_run_in_mode_fused_gives_the_same_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "compile_graph", lambda graph, *_: graph)  # inductor takes seconds
    monkeypatch.setattr("gtn_lightning.meta_training.step.WORTH_COMPILING", 0)
    torch.set_default_dtype(torch.float32)  # the type of the data
    ran: list[Fused] = []

    def fit(steps: int, resume: Path | None = None) -> GTN:
        ran.append(Fused(MODES["remat"]))  # as in a new process
        monkeypatch.setitem(MODES, "fused", ran[-1])
        gtn = make_gtn(inner_loop={"mode": "fused"})
        trainer = make_trainer(tmp_path, max_steps=steps)
        trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return gtn

    fit(3)
    assert same(fit(5, tmp_path / "3.ckpt").state_dict(), fit(5).state_dict())
    assert [found.unrolls for mode in ran for found in mode.architectures.values()] == [3, 2, 5]
