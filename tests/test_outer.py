"""The outer optimizer and its schedule, and the values that they refuse."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from gtn_lightning.errors import RecipeError
from gtn_lightning.outer import follow, outer_optimization


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


def test_an_optimizer_alone_is_returned_as_it_is() -> None:
    weights = parameters()
    optimizer = outer_optimization(weights, partial(Adam, lr=0.3), None)
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
    made: Any = outer_optimization(parameters(), partial(SGD, lr=0.3, momentum=0.1), scheduler)
    schedule = made["lr_scheduler"]["scheduler"]
    assert schedule.optimizer is made["optimizer"]
    assert made["lr_scheduler"]["interval"] == "step"
    assert schedule.last_epoch == 0
    assert (
        made["optimizer"].param_groups[0]["lr"] == scheduler(SGD(parameters(), lr=0.3)).optimizer.param_groups[0]["lr"]
    )


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        (partial(CosineAnnealingLR, T_max=4), partial(CosineAnnealingLR, T_max=4), {}),
        (partial(CosineAnnealingLR, T_max=4), partial(CosineAnnealingLR, T_max=9), {"T_max": (4, 9)}),
        (
            partial(OneCycleLR, max_lr=0.5, total_steps=6),
            partial(OneCycleLR, max_lr=0.5, total_steps=20),
            {"total_steps": (6, 20)},
        ),
        (
            partial(StepLR, step_size=2),
            partial(StepLR, step_size=3, gamma=0.2),
            {"gamma": (0.1, 0.2), "step_size": (2, 3)},
        ),
        (ReduceLROnPlateau, partial(ReduceLROnPlateau, patience=3), {}),
    ],
)
def test_a_resumed_schedule_goes_on_as_one_that_began_so(before: Any, now: Any, changed: dict[str, Any]) -> None:
    optimizer = partial(SGD, lr=0.3, momentum=0.1)

    def made(scheduler: Any, steps: int) -> Any:
        schedule: Any = outer_optimization(parameters(), optimizer, scheduler)["lr_scheduler"]["scheduler"]
        for _ in range(steps):
            schedule.optimizer.step()
            schedule.step(*([1.0] if isinstance(schedule, ReduceLROnPlateau) else []))
        return schedule

    resumed, undisturbed = made(before, 5), made(now, 6)
    assert follow(resumed, optimizer, now) == changed
    if not isinstance(resumed, ReduceLROnPlateau):
        resumed.step()
        assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(undisturbed.optimizer.param_groups[0]["lr"])


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
        (Adam, partial(OneCycleLR, max_lr=1.0, total_steps=-3), "model.lr_scheduler.init_args.total_steps: OneCycleLR"),
        # Refused only when they are stepped, or not at all.
        (Adam, partial(StepLR, step_size=0), "model.lr_scheduler: StepLR: "),
        (Adam, partial(CosineAnnealingLR, T_max=0), "model.lr_scheduler.init_args.T_max must be at least 1; got 0"),
        (Adam, partial(CosineAnnealingLR, T_max=-1), "model.lr_scheduler.init_args.T_max must be at least 1; got -1"),
    ],
)
def test_what_they_refuse_is_named(optimizer: Any, scheduler: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        outer_optimization(parameters(), optimizer, scheduler)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_bug_in_ones_own_optimizer_is_not_hidden() -> None:
    def broken(weights: Any) -> Optimizer:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError, match="a bug"):
        outer_optimization(parameters(), broken, None)
