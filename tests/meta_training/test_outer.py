"""The outer optimizer and its schedule, and the values that they refuse."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.outer import OuterOptimization
from gtn_lightning.meta_training.outer_resumption import check_outer, follow_recipe
from gtn_lightning.meta_training.schedules import scale_rates


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


def test_an_optimizer_alone_is_returned_as_it_is() -> None:
    weights = parameters()
    optimizer = OuterOptimization(weights, partial(Adam, lr=0.3)).configure()
    assert isinstance(optimizer, Adam)
    assert optimizer.param_groups[0]["params"] == weights
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(CosineAnnealingLR, T_max=4),
        partial(OneCycleLR, max_lr=0.5, total_steps=4),
        partial(StepLR, step_size=2),
        ReduceLROnPlateau,
        lambda optimizer: StepLR(optimizer, 2),
    ],
)
def test_a_schedule_stands_at_its_beginning(scheduler: Callable[[Optimizer], Any]) -> None:
    made: Any = OuterOptimization(parameters(), partial(SGD, lr=0.3, momentum=0.1), scheduler).configure()
    schedule = made["lr_scheduler"]["scheduler"]
    assert schedule.optimizer is made["optimizer"]
    assert made["lr_scheduler"]["interval"] == "step"
    assert schedule.last_epoch == 0
    assert (
        made["optimizer"].param_groups[0]["lr"] == scheduler(SGD(parameters(), lr=0.3)).optimizer.param_groups[0]["lr"]
    )


PARTS = {"teacher": 2, "inner_optimizer": 1}


def parts() -> dict[str, list[nn.Parameter]]:
    return {name: [nn.Parameter(torch.ones(2)) for _ in range(count)] for name, count in PARTS.items()}


def run(outer: OuterOptimization, steps: int) -> tuple[Any, Any]:
    """The optimizer and the schedule of a run after so many meta-steps."""
    made: Any = outer.configure()
    optimizer, schedule = (
        (made["optimizer"], made["lr_scheduler"]["scheduler"]) if isinstance(made, dict) else (made, None)
    )
    go_on(optimizer, schedule, steps)
    return optimizer, schedule


def go_on(optimizer: Any, schedule: Any, steps: int) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        if schedule is not None:
            schedule.step(*([1.0] if isinstance(schedule, ReduceLROnPlateau) else []))


def resumed(before: OuterOptimization, now: OuterOptimization, steps: int) -> tuple[Any, Any, list[str]]:
    """As `run`, of one that begins as one says, and is resumed as another says; with what is said about it."""
    then = torch.load(saved(before.plan()), weights_only=True)
    check_outer(now, then, steps)
    old_optimizer, old_schedule = run(before, steps)
    optimizer, schedule = run(now, 0)
    optimizer.load_state_dict(torch.load(saved(old_optimizer.state_dict()), weights_only=True))
    if then["schedule"] == now.plan()["schedule"] and schedule is not None:
        schedule.load_state_dict(old_schedule.state_dict())
    return optimizer, schedule, follow_recipe(now, optimizer, schedule, then, steps)


def saved(state: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def options(optimizer: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


COSINE = partial(CosineAnnealingLR, T_max=9)
CYCLE = partial(OneCycleLR, max_lr=0.5, total_steps=20)


def chain(gamma: float) -> Callable[[Optimizer], Any]:
    return lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=2), ExponentialLR(optimizer, gamma)], milestones=[2]
    )


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ((Adam, {"lr": 0.1}), (Adam, {"lr": 0.5}), ["lr 0.5 instead of 0.1"]),
        ((Adam, {"lr": 0.1}, COSINE), (Adam, {"lr": 0.5}, COSINE), ["lr 0.5 instead of 0.1"]),
        ((SGD, {"lr": 0.1, "momentum": 0.5}, chain(0.9)), (SGD, {"lr": 0.2, "momentum": 0.9}, chain(0.9)),
         ["lr 0.2 instead of 0.1", "momentum 0.9 instead of 0.5"]),
        ((SGD, {"lr": 0.1}, chain(0.9)), (SGD, {"lr": 0.1}, chain(0.8)), ["other schedulers"]),
        ((AdamW, {"eps": 1e-5, "betas": (0.9, 0.9)}), (AdamW, {"eps": 1e-4, "betas": (0.9, 0.99)}),
         ["betas (0.9, 0.99) instead of (0.9, 0.9)", "eps 0.0001 instead of 1e-05"]),
        ((AdamW, {"weight_decay": 0.1}), (AdamW, {"weight_decay": 0.2}),
         ["weight_decay 0.2 instead of 0.1 for the teacher"]),
        ((SGD, {"lr": 0.1}, COSINE), (SGD, {"lr": 0.1}, partial(CosineAnnealingLR, T_max=4)), ["T_max 4 instead of 9"]),
        ((SGD, {"lr": 0.1}, partial(StepLR, step_size=2)), (SGD, {"lr": 0.1}, partial(StepLR, step_size=3, gamma=0.2)),
         ["gamma 0.2 instead of 0.1", "step_size 3 instead of 2"]),
        ((SGD, {"lr": 0.1}, partial(MultiStepLR, milestones=[2])),
         (SGD, {"lr": 0.1}, partial(MultiStepLR, milestones=[4, 8])),
         ["milestones {4: 1, 8: 1} instead of {2: 1}"]),
        ((Adam, {"lr": 0.1}, COSINE), (Adam, {"lr": 0.1}), ["no schedule instead of CosineAnnealingLR"]),
        ((Adam, {"lr": 0.1}), (Adam, {"lr": 0.1}, COSINE), ["CosineAnnealingLR instead of no schedule"]),
        ((Adam, {"lr": 0.1}, CYCLE), (Adam, {"lr": 0.2}, COSINE),
         ["lr 0.2 instead of 0.1", "CosineAnnealingLR instead of OneCycleLR"]),
        ((Adam, {"lr": 0.1}, partial(LambdaLR, lr_lambda=lambda _: 1.0)), (Adam, {"lr": 0.1}, chain(0.9)),
         ["SequentialLR instead of LambdaLR"]),
        ((Adam, {}, CYCLE), (Adam, {}, partial(OneCycleLR, max_lr=0.5, total_steps=10)),
         ["total_steps 10 instead of 20"]),
        ((Adam, {}, CYCLE), (Adam, {}, partial(OneCycleLR, max_lr=1.0, total_steps=20)), ["max_lr 1.0 instead of 0.5"]),
        # All the rates are the schedule's.
        ((Adam, {"lr": 0.1}, CYCLE), (Adam, {"lr": 0.2}, CYCLE), []),
        ((Adam, {"lr": 0.1}, COSINE), (Adam, {"lr": 0.1}, COSINE), []),
        ((Adam, {"lr": 0.1}, chain(0.9)), (Adam, {"lr": 0.1}, chain(0.9)), []),
    ],
)  # fmt: skip
def test_a_resumed_run_goes_on_as_one_that_began_so(before: Any, now: Any, said: list[str]) -> None:
    def outer(optimizer: Any, arguments: dict[str, Any], schedule: Any = None) -> OuterOptimization:
        return OuterOptimization(parts(), partial(optimizer, **arguments), schedule)

    optimizer, schedule, told = resumed(outer(*before), outer(*now), 5)
    assert len([line for line in told if line in said]) == len(said), told
    assert bool(told) == bool(said)
    undisturbed, its_schedule = run(outer(*now), 5)
    for _ in range(3):
        for mine, its in zip(options(optimizer), options(undisturbed), strict=True):
            if told:
                assert mine.keys() == its.keys()
            for name in ("lr", "betas", "momentum", "eps", "weight_decay", "max_lr"):
                assert mine.get(name) == pytest.approx(its.get(name)), name
        go_on(optimizer, schedule, 1)
        go_on(undisturbed, its_schedule, 1)


def test_a_resumed_run_whose_recipe_is_the_same_is_not_touched() -> None:
    def outer() -> OuterOptimization:
        return OuterOptimization(parts(), partial(Adam, lr=0.1), COSINE)

    optimizer, schedule, told = resumed(outer(), outer(), 5)
    assert not told
    undisturbed, its_schedule = run(outer(), 5)
    assert options(optimizer) == options(undisturbed)
    assert schedule.state_dict() == its_schedule.state_dict()


@pytest.mark.parametrize("schedule", [None, COSINE, CYCLE, chain(0.9), partial(CyclicLR, base_lr=0.1, max_lr=0.4)])
def test_reduced_rates_stay_reduced(schedule: Any) -> None:
    def outer(rate: float) -> OuterOptimization:
        return OuterOptimization(parts(), partial(SGD, lr=rate, momentum=0.9), schedule)

    reduced, course = run(outer(0.1), 0)
    scale_rates(reduced, [course] if course else [], 0.5)
    full, its_course = run(outer(0.1), 0)
    for _ in range(6):
        go_on(reduced, course, 1)
        go_on(full, its_course, 1)
        assert [group["lr"] for group in reduced.param_groups] == pytest.approx(
            [group["lr"] / 2 for group in full.param_groups]
        )
    # Also where the recipe has another rate when the run is resumed.
    then = outer(0.1).plan()
    follow_recipe(outer(0.3), reduced, course, then, 6, 0.5)
    anew, its_course = run(outer(0.3), 6)
    for _ in range(3):
        assert [group["lr"] for group in reduced.param_groups] == pytest.approx(
            [group["lr"] / 2 for group in anew.param_groups]
        )
        go_on(reduced, course, 1)
        go_on(anew, its_course, 1)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            Adam,
            SGD,
            r"model.outer_optimizer must be torch.optim.adam.Adam, .*; got torch.optim.sgd.SGD: continue .*--teacher",
        ),
        (Adam, AdamW, r"model.outer_optimizer must be torch.optim.adam.Adam"),
        (Adam, partial(Adam, amsgrad=True), r"model.outer_optimizer.init_args: amsgrad cannot be changed .*--teacher"),
        (RMSprop, partial(RMSprop, momentum=0.9), r"momentum cannot be changed"),
        (Adam, lambda weights: Adam([{"params": weight} for weight in weights]), r"the checkpoint's groups"),
    ],
)
def test_a_run_that_cannot_go_on(before: Any, now: Any, message: str) -> None:
    then = OuterOptimization(parts(), before).plan()
    with pytest.raises(RecipeError, match=message) as caught:
        check_outer(OuterOptimization(parts(), now), then, 3)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_has_ended_before() -> None:
    then = OuterOptimization(parts(), Adam).plan()
    outer = OuterOptimization(parts(), Adam, partial(OneCycleLR, max_lr=0.5, total_steps=3))
    check_outer(outer, then, 3)
    with pytest.raises(RecipeError, match=r"^model.outer_lr_scheduler.init_args.total_steps: OneCycleLR: ") as caught:
        check_outer(outer, then, 9)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------- groups


def test_weight_decay_acts_on_the_teacher_alone() -> None:
    weights = {name: [nn.Parameter(torch.ones(2))] for name in ("teacher", "curriculum", "inner_optimizer")}
    optimizer: Any = OuterOptimization(weights, partial(AdamW, lr=0.1, weight_decay=0.5)).configure()
    assert [(group["name"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("teacher", 0.5), ("curriculum", 0.0), ("inner_optimizer", 0.0),
    ]  # fmt: skip
    for (parameter,) in weights.values():
        parameter.grad = torch.zeros(2)
    optimizer.step()
    assert [parameter[0].item() for (parameter,) in weights.values()] == pytest.approx([0.95, 1.0, 1.0])


def test_options_of_single_parts() -> None:
    given = {"inner_optimizer": {"lr": 0.01, "weight_decay": 0.2, "betas": [0.5, 0.6]}}
    outer = OuterOptimization(parts(), partial(AdamW, lr=0.4, weight_decay=0.5), COSINE, given)
    optimizer, schedule = run(outer, 4)
    teacher, learned = optimizer.param_groups
    assert (learned["weight_decay"], learned["betas"], teacher["betas"]) == (0.2, (0.5, 0.6), (0.9, 0.999))
    assert schedule.base_lrs == [0.4, 0.01]
    assert learned["lr"] == pytest.approx(teacher["lr"] / 40)
    then = OuterOptimization(parts(), partial(AdamW, lr=0.4, weight_decay=0.5), COSINE).plan()
    said = follow_recipe(outer, *run(outer, 0), then, 0)
    assert "lr 0.01 instead of 0.4 for the inner_optimizer" in said


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "given", "message"),
    [
        (Adam, None, {"learner": {"lr": 0.1}}, r"model.outer_groups.learner: .*name one of teacher, inner_optimizer"),
        (Adam, None, {"inner_optimizer": {"momentum": 0.1}},
         r"model.outer_groups.inner_optimizer.momentum: Adam has no such option; it has lr, betas"),
        (Adam, None, {"inner_optimizer": {"lr": -0.1}},
         r"model.outer_groups.inner_optimizer: Adam: Invalid learning rate: -0.1; correct"),
        (Adam, None, {"inner_optimizer": {"lr": "fast"}},
         r"model.outer_groups.inner_optimizer: Adam: .*correct the value"),
        (LBFGS, None, {"inner_optimizer": {"lr": 0.1}},
         r"model.outer_groups: LBFGS .*leave model.outer_groups out"),
        (Adam, CYCLE, {"inner_optimizer": {"lr": 0.1}},
         r"model.outer_groups.inner_optimizer.lr: OneCycleLR sets all rates by itself"),
    ],
)  # fmt: skip
def test_options_that_no_part_can_have(optimizer: Any, scheduler: Any, given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        OuterOptimization(parts(), optimizer, scheduler, given).configure()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer", [LBFGS, lambda weights: Adam([{"params": weight} for weight in weights])])
def test_an_optimizers_own_groups_are_left_to_it(optimizer: Any) -> None:
    made: Any = OuterOptimization(parts(), optimizer).configure()
    assert [list(group["params"]) for group in made.param_groups] == [
        list(group["params"])
        for group in optimizer([p for group in made.param_groups for p in group["params"]]).param_groups
    ]


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "message"),
    [
        (
            partial(Adam, lr=-1.0),
            None,
            "model.outer_optimizer.init_args.lr: Adam: Invalid learning rate: -1.0; correct",
        ),
        (partial(Adam, betas=(0.9, 2)), None, "model.outer_optimizer.init_args.betas: Adam: Invalid beta parameter"),
        # Either could be meant.
        (partial(Adam, lr=-1.0, eps=-1.0), None, "model.outer_optimizer: Adam: Invalid learning rate: -1.0"),
        (partial(SGD, nesterov=True), None, "model.outer_optimizer: SGD: Nesterov momentum requires a momentum"),
        (lambda weights: Adam(weights, lr=-1.0), None, "model.outer_optimizer: Invalid learning rate: -1.0"),
        (
            Adam,
            partial(OneCycleLR, max_lr=1.0, total_steps=-3),
            "model.outer_lr_scheduler.init_args.total_steps: OneCycleLR",
        ),
        # Refused only when they are stepped, or not at all.
        (Adam, partial(StepLR, step_size=0), "model.outer_lr_scheduler: StepLR: "),
        (
            Adam,
            partial(CosineAnnealingLR, T_max=0),
            "model.outer_lr_scheduler.init_args.T_max must be at least 1; got 0",
        ),
        (
            Adam,
            partial(CosineAnnealingLR, T_max=-1),
            "model.outer_lr_scheduler.init_args.T_max must be at least 1; got -1",
        ),
    ],
)
def test_what_they_refuse_is_named(optimizer: Any, scheduler: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        OuterOptimization(parameters(), optimizer, scheduler).configure()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_bug_in_ones_own_optimizer_is_not_hidden() -> None:
    def broken(weights: Any) -> Optimizer:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError, match="a bug"):
        OuterOptimization(parameters(), broken).configure()
