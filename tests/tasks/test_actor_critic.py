"""A synthetic environment: its transitions, the inner loss against a textbook's, the meta-gradient, a short run."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.curricula import Full, NoCurriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.inner_loop import SGD, Functional, InnerLoop
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.parts import Parts
from gtn_lightning.rl.transitions import Transitions
from gtn_lightning.tasks import ActorCritic
from gtn_lightning.tasks.actor_critic import GRADIENTS
from gtn_lightning.teachers import SyntheticEnvironment, TeacherInput
from tests.tasks.central_differences import check_meta_gradient
from tests.tasks.test_control import make_data, with_fixed_experience
from tests.tiny import make_trainer

STEPS, BATCH, HORIZON = 3, 4, 3


def make_task(size: int = 3, **options: Any) -> ActorCritic:
    return ActorCritic((size,), 2, samples=9, horizon=HORIZON, hidden=5, **options)


def parts(task: ActorCritic) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "teacher": SyntheticEnvironment(dict(task.fields), starts=6, noise=HORIZON, deviation=0.5),
        "curriculum": NoCurriculum(STEPS, BATCH, noise=HORIZON),
        "learners": Fixed(partial(MLP, task.shape, 3, hidden=[5], activation="tanh")),
        "inner_optimizer": SGD(lr=0.3, learned_per_step=["lr"], steps=STEPS),
        "task": task,
        "seed": 0,
    }


@pytest.mark.parametrize(("mode", "population"), [("remat", 2), ("reverse", 1), ("mixed", 1)])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_meta_gradient_by_central_differences(gradient: Any, mode: str, population: int) -> None:
    """The inner loss has constants, such as the bootstrapped value, through which the meta-gradient flows."""
    torch.set_default_dtype(torch.float64)
    try:
        task = make_task(gradient=gradient, value_scale=0.5)
        with_fixed_experience(task)
        made = Parts(**parts(task), inner_loop=InnerLoop(STEPS, mode))
        check_meta_gradient(made, None, population, step=2e-6, directions=3)
    finally:
        torch.set_default_dtype(torch.float32)


def inner_gradient(task: ActorCritic, learner: MLP, *batch: Tensor) -> tuple[Tensor, ...]:
    loss, _ = task.inner_loss(Functional(learner))(dict(learner.named_parameters()), {}, *batch)
    return torch.autograd.grad(loss, list(learner.parameters()))


def test_the_sampled_gradient_is_that_of_a2c() -> None:
    task = make_task(gradient="sampled", value_scale=1.0, value_weight=0.5, entropy_weight=0.01)
    learner = MLP((3,), 3, [5], activation="tanh")
    states, draws = torch.randn(BATCH, 3), torch.rand(BATCH, HORIZON)
    weights = torch.randn(1, task.fields["dynamics"].sample_shape[0])
    found = inner_gradient(task, learner, states, draws, weights)

    transitions, total = Transitions(3, 2, 5), torch.zeros(())
    for start, row in zip(states, draws, strict=True):
        state, logs, values, rewards, entropies = start[None], [], [], [], []
        for step in range(HORIZON):
            outputs = learner(state)[0]
            policy = torch.distributions.Categorical(logits=outputs[:2])
            action = (row[step] > policy.probs[0]).long()
            logs.append(policy.log_prob(action))
            entropies.append(policy.entropy())
            values.append(outputs[2])
            state, reward = transitions(weights[0], state, torch.eye(2)[action][None])
            rewards.append(reward[0])
        later = learner(state)[0, 2].detach()
        for step in range(HORIZON - 1, -1, -1):
            later = rewards[step] + task.discount * later
            advantage = later - values[step]
            total = total - logs[step] * advantage.detach() + 0.5 * advantage**2 - 0.01 * entropies[step]
    expected = torch.autograd.grad(total / (BATCH * HORIZON), list(learner.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_expected_gradient_is_the_mean_of_the_sampled_one() -> None:
    """In one time step, with the actions' probabilities as the numbers of times that they are drawn."""
    options = {"value_scale": 0.7, "value_weight": 0.0, "entropy_weight": 0.1}
    learner = MLP((3,), 3, [5], activation="tanh")
    task = ActorCritic((3,), 2, horizon=1, hidden=5, **options)
    a2c = ActorCritic((3,), 2, horizon=1, hidden=5, gradient="sampled", **options)
    weights = torch.randn(1, task.fields["dynamics"].sample_shape[0])
    count = 4000
    draws = (torch.arange(count) + 0.5)[:, None] / count
    states = torch.randn(1, 3).expand(count, 3)
    mean = inner_gradient(a2c, learner, states, draws, weights)
    found = inner_gradient(task, learner, states[:1], draws[:1], weights)
    torch.testing.assert_close(found, mean, rtol=1e-2, atol=1e-3)


def test_the_expected_gradient_of_three_actions_by_hand() -> None:
    task = ActorCritic((3,), 3, horizon=HORIZON, hidden=5, value_scale=0.7, value_weight=0.4, entropy_weight=0.1)
    learner = MLP((3,), 4, [5], activation="tanh")
    states, draws = torch.randn(BATCH, 3), torch.rand(BATCH, HORIZON)
    weights = torch.randn(1, task.fields["dynamics"].sample_shape[0])
    found = inner_gradient(task, learner, states, draws, weights)

    transitions, total = Transitions(3, 3, 5), torch.zeros(())
    for start, row in zip(states, draws, strict=True):
        state = start[None]
        for number in row:
            outputs = learner(state)[0]
            policy = torch.distributions.Categorical(logits=outputs[:3])
            answers = [transitions(weights[0], state, action[None]) for action in torch.eye(3)]
            worth = torch.stack([reward[0] + task.discount * 0.7 * learner(later)[0, 3] for later, reward in answers])
            gain = (policy.probs * worth.detach()).sum()
            total = total - gain + 0.4 * (gain.detach() - 0.7 * outputs[3]) ** 2 - 0.1 * policy.entropy()
            state = answers[int((policy.probs.cumsum(0)[:-1] < number).sum())][0]
    expected = torch.autograd.grad(total / (BATCH * HORIZON), list(learner.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_transitions_by_the_formula() -> None:
    transitions = Transitions(2, 3, 4)
    weights = torch.randn(transitions.size)
    states, actions = torch.randn(5, 2), torch.eye(3)[torch.tensor([0, 1, 2, 1, 0])]
    inputs, bias = weights[:20].view(4, 5), weights[20:24]
    outputs, shift = weights[24:36].view(3, 4), weights[36:]
    hidden = torch.tanh(torch.cat([states, actions], dim=1) @ inputs.T + bias)
    expected = hidden @ outputs.T + shift
    found, rewards = transitions(weights, states, actions)
    torch.testing.assert_close(found, states + expected[:, :2])
    torch.testing.assert_close(rewards, expected[:, 2])


def test_a_run(tmp_path: Path) -> None:
    task = make_task(4)
    gtn = GTN(**parts(task), inner_loop=InnerLoop(STEPS, "remat"), population=2, evaluation=Evaluation(learners=2))
    before = gtn.teacher.dynamics.detach().clone()
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2)
    trainer.fit(gtn, make_data())
    assert float(trainer.callback_metrics["val/return"]) > 8
    assert not torch.equal(gtn.teacher.dynamics.detach(), before)
    gtn.save_teacher(tmp_path / "teacher.safetensors")
    again = GTN.from_teacher(tmp_path / "teacher.safetensors")
    assert torch.equal(again.teacher.dynamics, gtn.teacher.dynamics)
    assert gtn.task.shown(gtn.synthetic_batch(0)).values.shape == (BATCH,)


def test_fields_in_any_order() -> None:
    """A teacher file that `gtn test` reads has them in alphabetical order."""
    fields = make_task().fields
    assert SyntheticEnvironment(dict(sorted(fields.items())), noise=HORIZON).fields == fields


def test_random_numbers_that_would_be_learned(tmp_path: Path) -> None:
    changes = parts(make_task(4)) | {"curriculum": Full(STEPS, BATCH, noise=HORIZON)}
    gtn = GTN(**changes, inner_loop=InnerLoop(STEPS, "remat"))
    with pytest.raises(RecipeError, match="set the curriculum's learned to false"):
        make_trainer(tmp_path).fit(gtn, make_data())


def test_random_numbers_are_uniform() -> None:
    task = make_task()
    teacher = SyntheticEnvironment(dict(task.fields), starts=6, noise=HORIZON)
    batch = teacher(TeacherInput(torch.arange(5000), None, torch.randn(5000, HORIZON)))
    shares = torch.histc(batch["draws"], bins=10, min=0, max=1) / batch["draws"].numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)
    assert torch.equal(batch["states"][:6], batch["states"][6:12])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActorCritic((4,), 2, horizon=0), "ActorCritic: horizon must be at least 1, got 0"),
        (lambda: ActorCritic((4,), 2, gradient="a2c"), "gradient must be one of expected, sampled, got 'a2c'"),  # type: ignore[arg-type]
        (lambda: ActorCritic((4,), 2, value_scale=-1.0), "value_scale must be at least 0, got -1.0"),
        (lambda: ActorCritic((4,), 2, entropy_weight=-1.0), "entropy_weight must be at least 0, got -1.0"),
        (lambda: ActorCritic((1, 8, 8), 2), r"ActorCritic: shape must be that of flat states, got \[1, 8, 8\]"),
        (lambda: SyntheticEnvironment(dict(make_task().fields), noise=7), "noise must be the task's horizon, 3, got 7"),
        (lambda: SyntheticEnvironment(dict(make_task().fields), starts=0), "starts must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
