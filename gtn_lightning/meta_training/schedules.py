"""The schedule of the outer rate: checked before meta-training, scaled after a rollback, advanced for a resumed run."""

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop.torch_internals import nested_schedules
from gtn_lightning.lightning import LRSchedulerCallable
from gtn_lightning.meta_training.optimizer_errors import named

SCHEDULE = "model.outer_lr_scheduler"
"""The key of the schedule in a recipe."""

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Options of a parameter group that are rates: the optimizer's own, and those that a schedule adds."""

SCHEDULED = {"momentum", "betas", "base_momentum", "max_momentum"}
"""Other options of a parameter group that a schedule changes or adds."""


def check_schedule(make: LRSchedulerCallable, optimizer: Optimizer, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Make and step a schedule once: some values are refused only at the first step.

    Args:
        make: makes the schedule.
        optimizer: an optimizer that is not used otherwise.
        options: options of single parts, by their names.

    Raises:
        RecipeError: if a value is refused.
    """
    schedule: LRScheduler | ReduceLROnPlateau = named(SCHEDULE, make, partial(make, optimizer))
    length = getattr(schedule, "T_max", 1)
    if length < 1:
        # Torch accepts a negative one, with which the rate jumps between its ends.
        raise RecipeError(
            f"{SCHEDULE}.init_args.T_max must be at least 1; got {length}: give the number of meta-steps, where "
            "trainer.max_steps does not"
        )
    for group in optimizer.param_groups:
        rate = options.get(group.get("name", ""), {}).get("lr")
        if rate is not None and group.get("initial_lr", rate) != rate:
            raise RecipeError(
                f"model.outer_groups.{group['name']}.lr: {type(schedule).__name__} sets all rates by itself; leave "
                "it out, or choose a schedule that begins with the optimizer's rate"
            )
    advance(make, schedule, 1)


def advance(make: LRSchedulerCallable, schedule: LRScheduler | ReduceLROnPlateau, steps: int) -> None:
    """Step a schedule that was made by ``make``; one that needs a metric is left unchanged.

    Raises:
        RecipeError: if it refuses a step, for instance after its end.
    """
    if isinstance(schedule, ReduceLROnPlateau):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer step before it
        for _ in range(steps):
            named(SCHEDULE, make, schedule.step)


def scale_rates(optimizer: Optimizer, schedules: Iterable[Any], factor: float) -> None:
    """Multiply an optimizer's rates, so that its schedules continue from there.

    Args:
        optimizer: the optimizer.
        schedules: its schedules.
        factor: the factor of all rates.
    """
    for group in optimizer.param_groups:
        group |= {name: group[name] * factor for name in RATES if name in group}
    _scale_bases(schedules, factor)


def _scale_bases(schedules: Iterable[Any], factor: float) -> None:
    for schedule in schedules:
        for name in ("base_lrs", "max_lrs"):
            if hasattr(schedule, name):
                setattr(schedule, name, [rate * factor for rate in getattr(schedule, name)])
        _scale_bases(nested_schedules(schedule), factor)
