"""The outer optimizer and its schedule, made from what a recipe says about them."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gtn_lightning.errors import RecipeError

REFUSALS = (ValueError, TypeError, RuntimeError, ArithmeticError)
"""How torch's optimizers and schedules refuse a value. Anything else is a bug, and keeps its traceback."""


def outer_optimization(
    parameters: Iterable[Tensor], optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None
) -> OptimizerLRScheduler:
    """Return an outer optimizer over the parameters, with its schedule stepped after every meta-step.

    Args:
        parameters: everything that is meta-learned.
        optimizer: makes the optimizer.
        lr_scheduler: makes the schedule, or None for a constant rate.

    Raises:
        RecipeError: if either refuses one of its arguments.
    """
    made = _made("model.outer_optimizer", optimizer, lambda: optimizer(parameters))
    if lr_scheduler is None:
        return made
    _rehearse(optimizer, lr_scheduler)
    return {"optimizer": made, "lr_scheduler": {"scheduler": lr_scheduler(made), "interval": "step"}}


def follow(
    schedule: LRScheduler, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable
) -> dict[str, tuple[Any, Any]]:
    """Let a resumed schedule go on as the recipe says now, where it said something else when the run began.

    A checkpoint brings the schedule's arguments along. With a larger ``T_max``, for instance, the rate would rise again
    where the old one ends.

    Args:
        schedule: as the checkpoint left it.
        optimizer: makes the optimizer.
        lr_scheduler: makes the schedule that the recipe asks for.

    Returns:
        The arguments that are different, each with its old and its new value.
    """
    if isinstance(schedule, ReduceLROnPlateau):  # which stands where the metric has led it
        return {}
    # What the rate would be by now, had the run begun so.
    rehearsed = optimizer([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in schedule.base_lrs])
    wanted = lr_scheduler(rehearsed)
    before, now = schedule.state_dict(), wanted.state_dict()
    names = now.keys() & before.keys() & inspect.signature(type(wanted).__init__).parameters.keys() - {"last_epoch"}
    changed = {name: (before[name], now[name]) for name in sorted(names) if before[name] != now[name]}
    if not changed:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer step before it
        for _ in range(schedule.last_epoch):
            wanted.step()
    for group, at in zip(schedule.optimizer.param_groups, rehearsed.param_groups, strict=True):
        group["lr"] = at["lr"]
    schedule.load_state_dict(wanted.state_dict())
    return changed


def _made(key: str, factory: Callable[..., Any], make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns; name the key of the factory's argument that it refuses."""
    try:
        return make()
    except REFUSALS as error:
        reason = " ".join(str(error).split())
        arguments = factory.keywords if isinstance(factory, partial) else {}
        refused = [name for name, value in arguments.items() if _mentions(reason, value)]
        place = f"{key}.init_args.{refused[0]}" if len(refused) == 1 else key
        # A factory from a recipe holds its class among its arguments.
        parts = (factory.func, *factory.args) if isinstance(factory, partial) else (factory,)
        name = next((f"{part.__name__}: " for part in parts if inspect.isclass(part)), "")
        raise RecipeError(f"{place}: {name}{reason}; correct the value") from error


def _mentions(reason: str, value: Any) -> bool:
    """Return whether a refusal names a value, or one of the numbers in it."""
    numbers = [
        item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, int | float)
    ]
    return any(re.search(rf"(?<![\w.-]){re.escape(str(number))}(?![\w.])", reason) for number in numbers)


def _rehearse(optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable) -> None:
    """Step a schedule over nothing: some values are refused no earlier than that, which would be after a meta-step."""
    schedule = _made(
        "model.lr_scheduler", lr_scheduler, lambda: lr_scheduler(optimizer([nn.Parameter(torch.zeros(1))]))
    )
    length = getattr(schedule, "T_max", 1)
    if length < 1:
        # Torch takes a negative one, with which the rate jumps between its ends.
        raise RecipeError(
            f"model.lr_scheduler.init_args.T_max must be at least 1; got {length}: give the number of meta-steps, "
            "where trainer.max_steps does not"
        )
    if not isinstance(schedule, ReduceLROnPlateau):  # which wants a metric
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimizer step before it
            _made("model.lr_scheduler", lr_scheduler, schedule.step)
