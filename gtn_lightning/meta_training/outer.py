"""The outer optimizer and its schedule, made from what a recipe says about them."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import LRSchedulerCallable, OptimizerCallable, OptimizerLRScheduler
from gtn_lightning.meta_training.optimizer_errors import named
from gtn_lightning.meta_training.outer_plan import group_options, schedule_arguments
from gtn_lightning.meta_training.schedules import SCHEDULE, advance, check_schedule, scale_rates
from gtn_lightning.trust import canonical

DEFAULT_OPTIMIZER: OptimizerCallable = partial(torch.optim.Adam, lr=0.01)
"""The outer optimizer where none is given."""

TEACHER = "teacher"
"""The group of parameters to which a weight decay applies by default."""


def meta_learned(module: nn.Module) -> dict[str, list[Tensor]]:
    """Return the parameters of a GTN that are meta-learned, by the part to which they belong.

    Raises:
        RecipeError: if there are none.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parts.setdefault(name.partition(".")[0], []).append(parameter)
    if not parts:
        raise RecipeError(
            "there is nothing to meta-learn: the teacher has no parameters and the inner optimizer learns nothing; "
            "name hyperparameters in model.inner_optimizer.learned or learned_per_step"
        )
    return parts


class OuterOptimization:
    """The outer optimizer and its schedule, as a recipe describes them.

    Every meta-learned part is a group of parameters. A weight decay applies to the teacher alone: it would pull the
    curriculum's noise to zero, and learned hyperparameters to their initial values. An optimizer that makes its own
    groups keeps them, and so does ``LBFGS``, which accepts one group only.

    Args:
        parameters: all meta-learned parameters, by the part to which they belong; or without parts.
        optimizer: makes the optimizer; None for `DEFAULT_OPTIMIZER`.
        lr_scheduler: makes the schedule, which is stepped after every meta-step, or None for a constant rate.
        options: options of the optimizer for single parts, by their names.
    """

    def __init__(
        self,
        parameters: Mapping[str, Sequence[Tensor]] | Iterable[Tensor],
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.parameters = (
            {name: list(part) for name, part in parameters.items()}
            if isinstance(parameters, Mapping)
            else {"": list(parameters)}
        )
        self.optimizer = optimizer or DEFAULT_OPTIMIZER
        self.lr_scheduler = lr_scheduler
        self.options = dict(options or {})

    def configure(self) -> OptimizerLRScheduler:
        """Return the optimizer, with its schedule if there is one.

        Raises:
            RecipeError: if either refuses an argument, or an option is unknown or for an unknown part.
        """
        optimizer = self.optimizer_of(self.parameters)
        if self.lr_scheduler is None:
            return optimizer
        check_schedule(self.lr_scheduler, self.optimizer_of(self.stand_ins()), self.options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"}}

    def plan(self) -> dict[str, Any]:
        """Return the optimizer and schedule at their beginning as plain data, for checkpoints.

        Raises:
            RecipeError: as `configure` does.
        """
        optimizer = self.optimizer_of(self.stand_ins())
        plan: dict[str, Any] = {
            "optimizer": canonical(type(optimizer)),
            "groups": group_options(optimizer),
            "schedule": None,
            "arguments": {},
        }
        if self.lr_scheduler is not None:
            schedule = named(SCHEDULE, self.lr_scheduler, partial(self.lr_scheduler, optimizer))
            plan |= {"schedule": canonical(type(schedule)), "arguments": schedule_arguments(schedule)}
        return plan | {"scheduled": group_options(optimizer)}

    def after(self, steps: int, factor: float = 1.0) -> tuple[Optimizer, LRScheduler | None]:
        """Return an optimizer and its schedule as they would be after some meta-steps.

        Args:
            steps: the number of meta-steps.
            factor: a factor of all rates.

        Returns:
            The optimizer, over stand-ins, and the schedule; None if there is none, or if it needs a metric.

        Raises:
            RecipeError: if the schedule refuses a step, for instance because it has ended.
        """
        optimizer = self.optimizer_of(self.stand_ins())
        schedule = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            schedule = None
        scale_rates(optimizer, [] if schedule is None else [schedule], factor)
        if schedule is not None:
            assert self.lr_scheduler is not None
            advance(self.lr_scheduler, schedule, steps)
        return optimizer, schedule

    def optimizer_of(self, parameters: Mapping[str, list[Tensor]]) -> Optimizer:
        """Return the optimizer of parameters like the meta-learned ones, in groups."""
        everything = [parameter for part in parameters.values() for parameter in part]
        optimizer: Optimizer = named("model.outer_optimizer", self.optimizer, lambda: self.optimizer(everything))
        for name in self.options.keys() - parameters.keys():
            raise RecipeError(
                f"model.outer_groups.{name}: there is nothing of that name to meta-learn; name one of "
                f"{', '.join(parameters)}"
            )
        if len(optimizer.param_groups) != 1 or isinstance(optimizer, LBFGS):
            if self.options:
                raise RecipeError(
                    f"model.outer_groups: {type(optimizer).__name__} as model.outer_optimizer makes it takes no "
                    "groups: leave model.outer_groups out"
                )
            return optimizer
        if "" in parameters:
            return optimizer
        (whole,) = optimizer.param_groups
        shared = {name: value for name, value in whole.items() if name != "params"}
        optimizer.param_groups.clear()
        for name, part in parameters.items():
            own = {"weight_decay": 0.0} if "weight_decay" in shared and name != TEACHER else {}
            own |= self._checked(name, type(optimizer), shared)
            optimizer.add_param_group({"params": part, "name": name, **shared, **own})
        return optimizer

    def stand_ins(self, steppable: bool = False) -> dict[str, list[Tensor]]:
        """Return parameters of the same shapes without memory, or, for steps, of the same numbers of dimensions."""
        return {
            name: [
                nn.Parameter(torch.zeros([1] * part.ndim) if steppable else torch.zeros(()).expand(part.shape))
                for part in parts
            ]
            for name, parts in self.parameters.items()
        }

    def _checked(self, part: str, optimizer: type[Optimizer], shared: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a part, after the optimizer has accepted them."""
        options = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.options.get(part, {}).items()
        }
        known = inspect.signature(optimizer).parameters.keys() & shared.keys()
        for name in options.keys() - known:
            raise RecipeError(
                f"model.outer_groups.{part}.{name}: {optimizer.__name__} has no such option; it has "
                f"{', '.join(name for name in shared if name in known)}"
            )
        arguments = {name: value for name, value in shared.items() if name in known} | options
        parameters = [nn.Parameter(torch.zeros(1, 1))]
        named(f"model.outer_groups.{part}", optimizer, lambda: optimizer(parameters, **arguments))
        return options
