"""Tasks of agents: meta-gradients through fixed episodes, a short run, and refusals."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gtn_lightning import GTN
from gtn_lightning.callbacks import LearningCurve, SyntheticData
from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData, EnvironmentData
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.inner_loop import Adam, Functional, InnerLoop
from gtn_lightning.learners import MLP, ConvNet, Fixed
from gtn_lightning.meta_training import MetaGradient
from gtn_lightning.meta_training.step import meta_step
from gtn_lightning.parts import Parts
from gtn_lightning.rl import Episodes, environments
from gtn_lightning.task import Images, Taught
from gtn_lightning.tasks import BehaviorDistillation, ContextualBandit, Control
from gtn_lightning.teachers import FreeTensors
from tests import processes
from tests.rl import lights
from tests.tiny import make_trainer, same

CPU, PLACE, STEPS, BATCH = torch.device("cpu"), (0, 0, 0), 3, 4
TASKS: dict[str, Any] = {
    "behavior": lambda: BehaviorDistillation((3,), 2, samples=9),
    "continuous behavior": lambda: BehaviorDistillation((3,), 2, continuous=True, samples=9),
    "bandit": lambda: ContextualBandit((3,), 2, samples=9),
}


def parts(task: Control, mode: str = "remat", actions: int = 2) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "teacher": FreeTensors(dict(task.fields), STEPS * BATCH),
        "curriculum": Full(STEPS, BATCH),
        "learners": Fixed(partial(MLP, task.shape, actions, hidden=[5], activation="tanh")),
        "inner_optimizer": Adam(lr=0.05, eps=1e-3, learned_per_step=["lr"], steps=STEPS),
        "task": task,
        "inner_loop": InnerLoop(STEPS, mode),
        "seed": 0,
    }


def with_fixed_experience(task: Control) -> None:
    """Let the policies' episodes be the same, whatever the policies are."""
    generator = torch.Generator().manual_seed(0)
    states, weights = torch.randn(9, 3, generator=generator), torch.randn(9, generator=generator)
    actions = torch.randn(9, 2, generator=generator) if task.continuous else torch.arange(9) % 2
    before = torch.randn(9, generator=generator) - 1
    experience = (states, actions, weights, before, torch.tensor(7.0))
    task.experience = lambda taught, *_, training: [experience] * len(taught)  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("kind", TASKS)
def test_the_meta_gradient_by_central_differences(kind: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        gradients = {}
        for mode in ("reverse", "remat", "mixed"):
            task = TASKS[kind]()
            with_fixed_experience(task)
            made = Parts(**parts(task, mode))
            parameters = [*made.teacher.parameters(), *made.inner_optimizer.parameters()]
            loss, _ = meta_step(made, 2, None, PLACE, CPU)
            gradients[mode] = parameters_to_vector(torch.autograd.grad(loss, parameters))
        for found in gradients.values():
            torch.testing.assert_close(found, gradients["reverse"], rtol=1e-9, atol=1e-12)
        before = parameters_to_vector(parameters).detach()
        for seed in range(3):
            direction = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))
            losses = []
            for distance in (2e-6, -2e-6):
                vector_to_parameters(before + distance * direction, parameters)
                losses.append(float(meta_step(made, 2, None, PLACE, CPU)[0].detach()))
            vector_to_parameters(before, parameters)
            quotient = (losses[0] - losses[1]) / 4e-6
            assert float(gradients["mixed"] @ direction) == pytest.approx(quotient, rel=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("env_id", "size", "continuous"), [("CartPole-v1", 4, False), ("Pendulum-v1", 3, True)])
def test_the_policy_gradient(env_id: str, size: int, continuous: bool) -> None:
    """The meta-loss is minus the mean return, and its gradient that of the textbook's surrogate."""
    torch.manual_seed(0)
    actions = 1 if continuous else 2
    task = BehaviorDistillation((size,), actions, continuous, samples=200)
    data = EnvironmentData(env_id, episodes=2)
    data.setup()
    policy = MLP((size,), actions, [8])
    learner = Functional(policy)
    taught = Taught(learner, *learner.init())
    batch = data.batch("train", 0)
    with torch.no_grad():
        ((states, chosen, weights, before, mean_return),) = task.experience(
            [taught], batch, torch.Generator().manual_seed(1), training=True
        )
    loss, _ = task.meta_loss(learner)(dict(policy.named_parameters()), {}, states, chosen, weights, before, mean_return)
    assert float(loss.detach()) == pytest.approx(-float(mean_return), rel=1e-5)
    found = torch.autograd.grad(loss, list(policy.parameters()))
    outputs = policy(states)
    own: Any = Normal(outputs, task.deviation) if continuous else Categorical(logits=outputs)
    probability = own.log_prob(chosen)
    surrogate = -((probability.sum(-1) if continuous else probability) * weights).mean()
    expected = torch.autograd.grad(surrogate, list(policy.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_ratio_far_from_one_is_clipped() -> None:
    """Schulman et al., arXiv 1707.06347, equation 7: no gain by moving further away, but by coming back."""
    task = BehaviorDistillation((1,), 2, clip=0.2)
    learner = Functional(nn.Linear(1, 2, bias=False))
    params = {"weight": torch.tensor([[0.0], [0.0]], requires_grad=True)}
    states, actions = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)
    weights = torch.tensor([1.0, 1.0, -1.0, -1.0])
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5])
    before = math.log(0.5) - ratios.log()
    gains = []
    for row in range(4):
        loss, _ = task.meta_loss(learner)(
            params, {}, *(tensor[row : row + 1] for tensor in (states, actions, weights, before)), torch.tensor(0.0)
        )
        (slope,) = torch.autograd.grad(loss, params["weight"])
        gains.append((-float(loss.detach()), bool(slope.any())))
    assert gains == [
        (pytest.approx(0.2), False),
        (pytest.approx(-0.5), True),
        (pytest.approx(-0.5), True),
        (pytest.approx(0.2), False),
    ]


def test_greedy_and_sampled_actions() -> None:
    task = BehaviorDistillation((4,), 3)
    outputs = torch.tensor([0.0, 2.0, 1.0]).expand(20_000, 3)
    assert task.act(outputs, None).unique().tolist() == [1]
    shares = task.act(outputs, torch.Generator().manual_seed(0)).bincount() / 20_000
    torch.testing.assert_close(shares, outputs[0].softmax(0), atol=0.01, rtol=0)
    surer = BehaviorDistillation((4,), 3, temperature=0.5)
    shares = surer.act(outputs, torch.Generator().manual_seed(0)).bincount() / 20_000
    torch.testing.assert_close(shares, (2 * outputs[0]).softmax(0), atol=0.01, rtol=0)
    found = surer.log_probabilities(outputs[:3], torch.tensor([0, 1, 2])).exp()
    torch.testing.assert_close(found, (2 * outputs[0]).softmax(0))
    continuous = BehaviorDistillation((4,), 3, continuous=True, deviation=0.3)
    assert torch.equal(continuous.act(outputs, None), outputs)
    noise = continuous.act(outputs, torch.Generator().manual_seed(0)) - outputs
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)


def make_gtn(task: Control | None = None, **changes: Any) -> GTN:
    made = parts(task or BehaviorDistillation((4,), 2, samples=32)) | {"evaluation": Evaluation(learners=2, steps=[0])}
    return GTN(**made | {"population": 2} | changes)


def make_data(**options: Any) -> EnvironmentData:
    return EnvironmentData(**{"env_id": "CartPole-v1", "episodes": 2, "eval_episodes": 3} | options)


def test_several_updates_from_one_set_of_episodes(tmp_path: Path) -> None:
    """They teach the same policies, use the same episodes, and count as one meta-step."""
    found = {}
    for updates in (1, 3):
        data, seen = make_data(), []
        gtn = make_gtn(outer_gradient=MetaGradient(updates))
        own_loss = gtn.task.meta_loss

        def noted(learner: Functional, own_loss: Any = own_loss, seen: list[Any] = seen) -> Any:
            loss = own_loss(learner)
            return lambda params, buffers, *real: (seen.append((params, real)), loss(params, buffers, *real))[1]

        gtn.task.meta_loss = noted  # type: ignore[method-assign]
        before = gtn.teacher.tensors["states"].detach().clone()  # type: ignore[union-attr, operator]
        trainer = make_trainer(tmp_path, max_steps=2, gradient_clip_val=1.0)
        trainer.fit(gtn, data)
        found[updates] = data.counts()["env_steps"]
        assert trainer.global_step == 2
        assert len(seen) == 2 * 2 * updates
        if updates == 3:
            (first, episodes), (second, again) = seen[0], seen[2]
            assert all(torch.equal(one, other) for one, other in zip(episodes, again, strict=True))
            assert not torch.equal(next(iter(first.values())), next(iter(second.values())))  # another teacher
            assert not torch.equal(episodes[0], seen[6][1][0])  # the next meta-step acts anew
        assert not torch.equal(gtn.teacher.tensors["states"].detach(), before)  # type: ignore[union-attr, operator]
    # The first meta-step plays the same episodes, the second has another teacher.
    assert found[3] == pytest.approx(found[1], rel=0.5)


def test_several_updates_do_not_add_up_over_accumulated_batches(tmp_path: Path) -> None:
    gtn = make_gtn(outer_gradient=MetaGradient(updates=2))
    with pytest.raises(RecipeError, match=r"trainer.accumulate_grad_batches must be 1 with 2 updates .* got 3"):
        make_trainer(tmp_path, accumulate_grad_batches=3).fit(gtn, make_data())
    with pytest.raises(RecipeError, match="MetaGradient: updates must be at least 1, got 0"):
        MetaGradient(updates=0)


@pytest.mark.parametrize("task", [BehaviorDistillation, ContextualBandit])
def test_a_run_logs_returns_and_counts_time_steps(task: Any, tmp_path: Path) -> None:
    gtn, data = make_gtn(task((4,), 2, samples=32)), make_data()
    trainer = make_trainer(tmp_path, max_steps=3, val_check_interval=3)
    trainer.fit(gtn, data)
    logged = trainer.callback_metrics
    assert 8 < float(logged["val/return"]) <= 500
    assert 8 < float(logged["val/return_sampled"]) <= 500
    assert float(logged["val/loss"]) == pytest.approx(-float(logged["val/return"]))
    assert "val/return_random" not in logged
    measured = 64 * 8  # at least: the episodes of random actions by which states are normalized
    assert float(logged["train/env_steps"]) > measured + 3 * 2 * 2 * 8
    assert gtn.result is not None
    assert gtn.result.synthetic.shape == (2, 2)


def test_convolutions_learn_to_act_on_images(tmp_path: Path) -> None:
    task = BehaviorDistillation((1, lights.SIZE, lights.SIZE), 2, samples=64)
    network = partial(ConvNet, task.shape, task.actions, width=4, depth=1, norm="group")
    gtn = make_gtn(
        task,
        learners=Fixed(network),
        inner_optimizer=Adam(lr=0.02, eps=1e-3, learned_per_step=["lr"], steps=STEPS),
        outer_optimizer=partial(torch.optim.Adam, lr=0.3),
        evaluation=Evaluation(learners=8, steps=[0]),
    )
    make_trainer(tmp_path, max_steps=16, val_check_interval=16).fit(gtn, make_data(env_id=lights.NAME, episodes=8))
    assert gtn.result is not None
    untaught, taught = gtn.result.synthetic.mean(0).tolist()
    assert taught > untaught + 1
    shown = task.shown(gtn.synthetic_batch(0))
    assert isinstance(shown, Images)
    assert shown.pixels.shape == (BATCH, *task.shape)


def test_a_resumed_run_gives_the_same_teacher_and_goes_on_counting(tmp_path: Path) -> None:
    whole = make_gtn()
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.fit(whole, make_data())
    steps = trainer.callback_metrics["train/env_steps"]
    first = make_trainer(tmp_path, max_steps=2)
    first.fit(make_gtn(), make_data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make_gtn()
    again = make_trainer(tmp_path, max_steps=4)
    again.fit(resumed, make_data(), ckpt_path=tmp_path / "half.ckpt")
    assert same(resumed.teacher.state_dict(), whole.teacher.state_dict())
    assert again.callback_metrics["train/env_steps"] == steps


def test_processes_play_episodes_of_their_own_and_agree_on_the_teacher(tmp_path: Path) -> None:
    from tests.tasks import control_run  # it imports this module

    processes.run(control_run.main, tmp_path, 2, folder=tmp_path, count=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for kind in ("exact", "evolution"):
        one, other = first[kind], second[kind]
        assert one["validated"] == other["validated"]
        assert same(one["weights"], other["weights"])
        assert not {*one["seeds"]} & {*other["seeds"]}
        assert one["steps"] == other["steps"] == one["own steps"] + other["own steps"] == one["saved steps"]
    assert (tmp_path / "pictures" / "poles.png").is_file()
    assert not list(tmp_path.rglob("*.part"))


def test_a_teacher_file_is_tested_without_a_fit(tmp_path: Path) -> None:
    make_gtn().save_teacher(tmp_path / "teacher.safetensors")
    gtn = GTN.from_teacher(tmp_path / "teacher.safetensors")
    trainer = make_trainer(tmp_path, max_steps=-1, callbacks=[LearningCurve()])
    (scores,) = trainer.test(gtn, make_data(), verbose=False)
    assert scores["test/return"] > 8
    assert gtn.result is not None
    (_, _, own), (name, title, random) = gtn.result.sources
    assert (name, title) == ("random", "random data")
    assert scores["test/return_random"] == pytest.approx(float(random[:, -1].mean()))
    assert torch.equal(random[:, 0], own[:, 0])  # the same policies, untaught
    heading = (tmp_path / "test_learning_curve.csv").read_text().splitlines()[0]
    assert heading == "steps,synthetic_mean,synthetic_std,random_mean,random_std"


def test_a_run_without_an_end(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"trainer.max_steps must be given with EnvironmentData"):
        make_trainer(tmp_path, max_steps=-1, max_epochs=1).fit(make_gtn(), make_data())


def test_predict_writes_what_normalizes_a_state(tmp_path: Path) -> None:
    data = make_data(scale=[2.0, 1.0, 0.5, 1.0])
    make_trainer(tmp_path, callbacks=[SyntheticData()]).predict(make_gtn(), data)
    written = load_file(tmp_path / "synthetic.safetensors")
    assert written["states"].shape == (STEPS, BATCH, 4)
    assert written["normalize_scale"].tolist() == [2.0, 1.0, 0.5, 1.0]
    assert written["normalize_center"].tolist() == [0.0] * 4


def test_mixed_precision(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2, precision="bf16-mixed")
    trainer.fit(make_gtn(), make_data())
    assert float(trainer.callback_metrics["val/return"]) > 8


def test_many_policies_are_scored_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "MOST_COPIES", 70)  # 2 learners x 2 numbers of steps x 30 episodes
    gtn = make_gtn()
    trainer = make_trainer(tmp_path)
    trainer.validate(gtn, make_data(eval_episodes=30), verbose=False)
    assert float(trainer.callback_metrics["val/return"]) > 8
    with pytest.raises(RecipeError, match=r"data.episodes times model.population must be at most 70 .*, got 80"):
        make_trainer(tmp_path, max_steps=1).fit(make_gtn(), make_data(episodes=40))
    with pytest.raises(RecipeError, match=r"data.eval_episodes must be at most 70 .* got 71"):
        make_data(eval_episodes=71).setup()


def test_a_teacher_that_needs_real_samples(tmp_path: Path) -> None:
    task = BehaviorDistillation((4,), 2)
    teacher = FreeTensors(dict(task.fields), STEPS * BATCH, init="real")
    with pytest.raises(RecipeError, match="needs real samples, and BehaviorDistillation has none"):
        make_trainer(tmp_path).fit(make_gtn(task, teacher=teacher), make_data())


@pytest.mark.parametrize("state", [{}, {"env_steps": "x"}, {"env_steps": -1}])
def test_a_damaged_count(state: dict[str, Any]) -> None:
    data = make_data()
    data.setup()
    with pytest.raises(RecipeError, match="the checkpoint is damaged: its number of time steps is"):
        data.load_state_dict(state)


def test_splits_have_seeds_of_their_own() -> None:
    data = make_data(seed=3)
    data.setup()
    seeds = {(split, number): data.batch(split, number).seed for split in ("train", "val", "test") for number in (0, 1)}
    assert seeds["val", 0] < 2**29 <= seeds["test", 0] < 2**30 <= min(seeds["train", 0], seeds["train", 1])
    assert seeds["train", 0] != seeds["train", 1]


def test_states_are_scaled_as_asked() -> None:
    data = make_data(scale=[2.0, 1.0, 0.5, 1.0], center=[0.0, 0.0, 0.1, 0.0])
    data.setup()
    assert data.counts() == {"env_steps": 0}  # nothing is left to measure
    batch = data.batch("val", 0)
    assert isinstance(batch, Episodes)
    assert batch.scale.tolist() == [2.0, 1.0, 0.5, 1.0]
    measured, again = make_data(), make_data(seed=9)
    for each in (measured, again):
        each.setup()
    assert torch.equal(measured.batch("val", 0).scale, again.batch("val", 0).scale)


class Wide(nn.Module):
    """A network with three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.layer(states)
        return outputs


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"task": BehaviorDistillation((4,), 3)}, {}, "model.task.actions is 3 but CartPole-v1 has 2: make them agree"),
        ({"task": BehaviorDistillation((2,), 2)}, {}, r"model.task.shape is \[2\] but CartPole-v1 has \[4\]"),
        ({}, {"env_id": "Pendulum-v1"}, "model.task.shape is .* but Pendulum-v1 has"),
        ({"learners": Fixed(Wide)}, {}, r"the learner Wide returns \[2, 3\] for 2 states, expected \[2, 2\]"),
        ({"learners": Fixed(partial(MLP, (4,), 2, [8], "batch"))}, {}, "the learner MLP answers a state differently"),
        ({"learners": Fixed(partial(MLP, (4,), 2, [8], "weight"))}, {}, "the learner MLP answers a state differently"),
        ({"learners": Fixed(partial(MLP, (5,), 2))}, {}, r"the learner MLP cannot take states of shape \[4\]"),
    ],
)
def test_what_does_not_fit_together(changes: Any, data: Any, message: str, tmp_path: Path) -> None:
    gtn = make_gtn(**changes)
    with pytest.raises(RecipeError, match=message):
        make_trainer(tmp_path).fit(gtn, make_data(**data))


def test_images_are_no_environment(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"must have episodes to act in, got a .*: use EnvironmentData"):
        make_trainer(tmp_path).fit(make_gtn(), DigitsData(32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BehaviorDistillation((4,), 1), "actions must be at least 2, got 1"),
        (lambda: BehaviorDistillation((4,), 2, samples=0), "samples must be at least 1, got 0"),
        (lambda: BehaviorDistillation((4,), 2, discount=1.5), "discount must be between 0 and 1, got 1.5"),
        (lambda: BehaviorDistillation((4,), 2, deviation=0.0), "deviation must be above 0, got 0.0"),
        (lambda: BehaviorDistillation((4,), 2, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: BehaviorDistillation((4,), 2, clip=-1.0), "clip must be above 0, got -1.0"),
        (
            lambda: BehaviorDistillation((4,), 2, advantage="q"),
            "advantage must be one of linear, polynomial, time, got 'q'",
        ),
        (lambda: BehaviorDistillation((3, 64, 64), 2), "advantage linear takes states of fewer numbers, got"),
        (
            lambda: BehaviorDistillation((15,), 2, advantage="polynomial"),
            r"advantage polynomial takes states of fewer numbers, got \[15\]: use linear or time",
        ),
        (lambda: BehaviorDistillation((4,), 2, plotted={"angle": 4, "speed": 0}), "plotted must name two dimensions"),
        (lambda: ContextualBandit((3,), 1, continuous=True), "ContextualBandit: actions must be discrete"),
        (lambda: EnvironmentData("CartPole-v1", episodes=0), "data.episodes must be at least 1, got 0"),
        (lambda: EnvironmentData("CartPole-v1", scale=[1.0, 0.0]), "data.scale must be finite numbers above 0, got"),
        (lambda: EnvironmentData("CartPole-v1", center=[math.nan] * 4), "data.center must be finite numbers, got"),
        (lambda: EnvironmentData("CartPole-v1", scale=[1.0]).setup(), "data.scale must have the shape of a state"),
    ],
)
def test_arguments_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
