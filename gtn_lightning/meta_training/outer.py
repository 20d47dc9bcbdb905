"""The outer optimizer and its schedule, made from what a recipe says about them."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.checkpoints import CheckpointError, is_number, misfit, shown

REFUSALS = (ValueError, TypeError, RuntimeError, ArithmeticError)
"""How torch's optimizers and schedules refuse a value. Anything else is a bug, and keeps its traceback."""


TEACHER = "teacher"
"""The group of parameters that a weight decay acts on by default."""

SCHEDULED = {"momentum", "betas", "base_momentum", "max_momentum"}
"""Options of a group that are no rates and that a schedule changes or puts there."""

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Options of a group that are rates: the optimizer's own, and those that a schedule puts there."""


class OuterOptimization:
    """What a recipe says about the outer optimizer and its schedule.

    Every part of what is meta-learned is a group of parameters. A weight decay acts on the teacher alone: it would draw
    the curriculum's noise to zero, and learned hyperparameters to where they began. An optimizer that makes groups of
    its own keeps them, and so does ``LBFGS``, which takes one only.

    Args:
        parameters: everything that is meta-learned, by the part that it belongs to; or without parts.
        optimizer: makes the optimizer.
        lr_scheduler: makes the schedule, which is stepped after every meta-step, or None for a constant rate.
        options: options of the optimizer for single parts, by their names.
    """

    def __init__(
        self,
        parameters: Mapping[str, Sequence[Tensor]] | Iterable[Tensor],
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.parameters = (
            {name: list(part) for name, part in parameters.items()}
            if isinstance(parameters, Mapping)
            else {"": list(parameters)}
        )
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.options = dict(options or {})

    def configure(self) -> OptimizerLRScheduler:
        """Return the optimizer, with its schedule if there is one.

        Raises:
            RecipeError: if either refuses one of its arguments, or an option is for no part or unknown.
        """
        made = self._over(self.parameters)
        if self.lr_scheduler is None:
            return made
        self._rehearse()
        return {"optimizer": made, "lr_scheduler": {"scheduler": self.lr_scheduler(made), "interval": "step"}}

    def plan(self) -> dict[str, Any]:
        """Return, as plain data for a checkpoint, with what this optimizer and schedule begin.

        Raises:
            RecipeError: as `configure` does.
        """
        made = self._over(self._stand_ins())
        plan: dict[str, Any] = {"optimizer": _path(made), "groups": _options(made), "schedule": None, "arguments": {}}
        if self.lr_scheduler is not None:
            schedule = _made("model.outer_lr_scheduler", self.lr_scheduler, partial(self.lr_scheduler, made))
            plan |= {"schedule": _path(schedule), "arguments": _arguments(schedule)}
        return plan | {"scheduled": _options(made)}

    def check(self, then: Mapping[str, Any], steps: int) -> None:
        """See that a run that began with another plan can go on with this one.

        Args:
            then: what `plan` returned when the run began, or was resumed the last time.
            steps: how many meta-steps the run has taken.

        Raises:
            RecipeError: if the optimizer's state does not belong to this optimizer, or the schedule is over by then.
            CheckpointError: if the earlier plan is none.
        """
        _check_plan(then)
        now = self.plan()
        anew = "or begin anew from the run's teacher.safetensors with --teacher in place of --ckpt_path"
        if then["optimizer"] != now["optimizer"]:
            raise RecipeError(
                f"model.outer_optimizer must be {then['optimizer']}, whose state the checkpoint holds; got "
                f"{now['optimizer']}: go on with the former, {anew}"
            )
        parts = [[group.get("name", "without a name") for group in plan["groups"]] for plan in (then, now)]
        if parts[0] != parts[1]:
            raise RecipeError(
                f"model.outer_optimizer must have the checkpoint's groups of parameters, {', '.join(parts[0])}; got "
                f"{', '.join(parts[1])}: learn the same parts as before, {anew}"
            )
        if _differences(then, now):
            self._course(steps)
        different = {
            name
            for old, new in zip(then["groups"], now["groups"], strict=True)
            for name in old.keys() & new.keys()
            if old[name] != new[name]
        }
        if not different - {"lr"}:
            return
        trial = self._over(self._stand_ins(steppable=True))
        try:
            for plan in (then, now):
                for group, options in zip(trial.param_groups, plan["groups"], strict=True):
                    group |= {name: options[name] for name in different & options.keys()}
                    for parameter in group["params"]:
                        parameter.grad = torch.zeros_like(parameter)
                trial.step()
        except (LookupError, AttributeError, *REFUSALS) as error:
            raise RecipeError(
                f"model.outer_optimizer.init_args: {', '.join(sorted(different - {'lr'}))} cannot be changed in a run "
                f"that goes on, for the checkpoint lacks the state for it: leave it as it was, {anew}"
            ) from error

    def check_state(self, checkpoint: Mapping[str, Any]) -> None:
        """See that the state of optimizer and schedule in a checkpoint is whole and of the parameters' shapes.

        Args:
            checkpoint: a checkpoint whose plan `check` has passed.

        Raises:
            CheckpointError: if it is not.
        """
        then, now, states = checkpoint["outer"], self.plan(), checkpoint["optimizer_states"]
        if len(states) != 1:
            raise CheckpointError(f"optimizer_states: expected that of one optimizer, got {len(states)}")
        fresh = self._after_one_step(then["groups"])
        groups, wanted = states[0].get("param_groups"), fresh["param_groups"]
        if not isinstance(groups, list) or len(groups) != len(wanted):
            raise CheckpointError(
                f"optimizer_states.0.param_groups: expected {len(wanted)} groups, got {shown(groups)}"
            )
        for number, (group, template) in enumerate(zip(groups, wanted, strict=True)):
            place = f"optimizer_states.0.param_groups.{number}"
            numbers = {name: value for name, value in template.items() if isinstance(value, int | float | list | tuple)}
            numbers = {name: value for name, value in numbers.items() if not isinstance(value, bool)}
            if fault := misfit(group, numbers, place):
                raise CheckpointError(fault)
            if group["params"] != template["params"]:
                raise CheckpointError(f"{place}.params: expected {shown(template['params'])}, got others")
            _check_options(group, then["groups"][number], then["schedule"] is not None, place)
        state, known = states[0].get("state"), fresh["state"]
        if not isinstance(state, Mapping):
            raise CheckpointError(f"optimizer_states.0.state: expected a mapping, got {shown(state)}")
        skipped = checkpoint.get("recovery", {}).get("skipped", 0)
        if any(known.values()) and not state and checkpoint["global_step"] > skipped:
            raise CheckpointError("optimizer_states.0.state: it is empty")
        for number, entry in state.items():
            if fault := misfit(entry, known.get(number, {}), f"optimizer_states.0.state.{number}"):
                raise CheckpointError(fault)
        schedules = checkpoint["lr_schedulers"]
        if len(schedules) != (then["schedule"] is not None):
            raise CheckpointError(f"lr_schedulers: expected that of {then['schedule']}, got {len(schedules)}")
        # A schedule with other arguments than before takes nothing from the checkpoint.
        if self.lr_scheduler is not None and (then["schedule"], then["arguments"]) == (
            now["schedule"],
            now["arguments"],
        ):
            schedule = self.lr_scheduler(self._over(self._stand_ins()))
            if fault := misfit(schedules[0], schedule.state_dict(), "lr_schedulers.0", whole=False):
                raise CheckpointError(fault)

    def _after_one_step(self, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state of an optimizer with such options after one step, its tensors without their contents.

        It is empty for an optimizer that takes no step without contents.
        """
        shapes: dict[str, list[Tensor]] = {
            name: [nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in part]
            for name, part in self.parameters.items()
        }
        made = self._over(shapes)
        for group, options in zip(made.param_groups, groups, strict=True):
            group |= {name: value for name, value in options.items() if name in group}
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        try:
            made.step()
        except (LookupError, AttributeError, *REFUSALS):
            made = self._over(shapes)
        return made.state_dict()

    def follow(
        self,
        made: Optimizer,
        schedule: LRScheduler | None,
        then: Mapping[str, Any],
        steps: int,
        reduction: float = 1.0,
    ) -> list[str]:
        """Let a resumed run go on as its recipe says now, where it said something else when the run began.

        A checkpoint brings the optimizer's options and the schedule's arguments along, which then stand above the
        recipe. Where the recipe is what it was, nothing is touched. The functions of a ``LambdaLR`` are not compared.

        Args:
            made: the optimizer, as the checkpoint left it.
            schedule: its schedule, likewise, or fresh if it is another one than the checkpoint's.
            then: what `plan` returned when the run began, or was resumed the last time.
            steps: how often a schedule would have been stepped by now, had the run begun so.
            reduction: by which the rates were multiplied on the way.

        Returns:
            What is different, in words.
        """
        changed = _differences(then, self.plan())
        if not changed:
            return []
        wanted, course = self._course(steps, reduction)
        plateau = isinstance(schedule, ReduceLROnPlateau)
        for group, now, old in zip(made.param_groups, wanted.param_groups, then["groups"], strict=True):
            if plateau:  # whose rate is where the metric has led it
                now["lr"] = group["lr"] * now["lr"] / (old["lr"] * reduction)
            for name in group.keys() - now.keys():
                del group[name]
            group |= {name: value for name, value in now.items() if name != "params"}
        if course is not None and schedule is not None:
            schedule.load_state_dict(course.state_dict())
        return changed

    def _course(self, steps: int, factor: float = 1.0) -> tuple[Optimizer, LRScheduler | None]:
        """Return an optimizer and its schedule after a number of meta-steps; the latter None if it is not stepped."""
        wanted = self._over(self._stand_ins())
        course = None if self.lr_scheduler is None else self.lr_scheduler(wanted)
        if isinstance(course, ReduceLROnPlateau):  # which wants a metric
            course = None
        scale_rates(wanted, [] if course is None else [course], factor)
        if course is not None:
            assert self.lr_scheduler is not None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no optimizer step before it
                for _ in range(steps):
                    _made("model.outer_lr_scheduler", self.lr_scheduler, course.step)
        return wanted, course

    def _over(self, parameters: Mapping[str, list[Tensor]]) -> Optimizer:
        """Return the optimizer over some parameters, in groups."""
        key = "model.outer_optimizer"
        everything = [parameter for part in parameters.values() for parameter in part]
        made: Optimizer = _made(key, self.optimizer, lambda: self.optimizer(everything))
        for name in self.options.keys() - parameters.keys():
            raise RecipeError(
                f"model.outer_groups.{name}: there is nothing of that name to meta-learn; name one of "
                f"{', '.join(parameters)}"
            )
        if len(made.param_groups) != 1 or isinstance(made, LBFGS):
            if self.options:
                raise RecipeError(
                    f"model.outer_groups: {type(made).__name__} as model.outer_optimizer makes it takes no groups: "
                    "leave model.outer_groups out"
                )
            return made
        if "" in parameters:
            return made
        (whole,) = made.param_groups
        shared = {name: value for name, value in whole.items() if name != "params"}
        made.param_groups.clear()
        for name, part in parameters.items():
            own = {"weight_decay": 0.0} if "weight_decay" in shared and name != TEACHER else {}
            own |= self._checked(name, type(made), shared)
            made.add_param_group({"params": part, "name": name, **shared, **own})
        return made

    def _checked(self, part: str, optimizer: type[Optimizer], shared: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a part, once the optimizer has taken them."""
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
        try:
            optimizer([nn.Parameter(torch.zeros(1, 1))], **arguments)
        except REFUSALS as error:
            reason = " ".join(str(error).split())
            raise RecipeError(
                f"model.outer_groups.{part}: {optimizer.__name__}: {reason}; correct the value"
            ) from error
        return options

    def _stand_ins(self, steppable: bool = False) -> dict[str, list[Tensor]]:
        """Return parameters of the same shapes, or numbers of dimensions, that need no memory."""
        return {
            name: [
                nn.Parameter(torch.zeros([1] * part.ndim) if steppable else torch.zeros(()).expand(part.shape))
                for part in parts
            ]
            for name, parts in self.parameters.items()
        }

    def _rehearse(self) -> None:
        """Step a schedule over nothing: some values are refused no earlier than that, after a meta-step that is."""
        assert self.lr_scheduler is not None
        over = self._over(self._stand_ins())
        schedule = _made("model.outer_lr_scheduler", self.lr_scheduler, partial(self.lr_scheduler, over))
        length = getattr(schedule, "T_max", 1)
        if length < 1:
            # Torch takes a negative one, with which the rate jumps between its ends.
            raise RecipeError(
                f"model.outer_lr_scheduler.init_args.T_max must be at least 1; got {length}: give the number of "
                "meta-steps, where trainer.max_steps does not"
            )
        for group in over.param_groups:
            rate = self.options.get(group.get("name", ""), {}).get("lr")
            if rate is not None and group.get("initial_lr", rate) != rate:
                raise RecipeError(
                    f"model.outer_groups.{group['name']}.lr: {type(schedule).__name__} sets all rates by itself; leave "
                    "it out, or choose a schedule that begins with the optimizer's rate"
                )
        if not isinstance(schedule, ReduceLROnPlateau):  # which wants a metric
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no optimizer step before it
                _made("model.outer_lr_scheduler", self.lr_scheduler, schedule.step)


def _check_plan(plan: Any) -> None:
    """Raise ``CheckpointError`` unless something is what `OuterOptimization.plan` returns."""
    if not isinstance(plan, Mapping) or not isinstance(plan.get("optimizer"), str):
        raise CheckpointError(f"outer: expected what the outer optimizer was, got {shown(plan)}")
    if not isinstance(plan.get("schedule"), str | None) or "schedule" not in plan:
        raise CheckpointError("outer.schedule: expected the name of a schedule or nothing")
    if not isinstance(plan.get("arguments"), Mapping):
        raise CheckpointError(f"outer.arguments: expected a mapping, got {shown(plan.get('arguments'))}")
    for key in ("groups", "scheduled"):
        groups = plan.get(key)
        if not isinstance(groups, list) or not groups:
            raise CheckpointError(f"outer.{key}: expected a list of groups, got {shown(groups)}")
        for number, group in enumerate(groups):
            place = f"outer.{key}.{number}"
            if fault := misfit(group, {}, place):
                raise CheckpointError(fault)
            if not isinstance(group.get("name", ""), str) or not all(isinstance(name, str) for name in group):
                raise CheckpointError(f"{place}: expected the name of a part and options of an optimizer")
            if not is_number(group.get("lr", 0.0)):
                raise CheckpointError(f"{place}.lr: expected a number, got {shown(group['lr'])}")
    if len(plan["groups"]) != len(plan["scheduled"]):
        raise CheckpointError("outer.scheduled: expected as many groups as in outer.groups")
    if odd := _not_plain(plan, "outer"):
        raise CheckpointError(f"{odd}: expected a number, a text or several of them")


def _check_options(group: Mapping[str, Any], then: Mapping[str, Any], scheduled: bool, place: str) -> None:
    """Raise ``CheckpointError`` if a group's options are others than it began with, and no schedule changes them."""
    moved = {"params", *RATES} | (SCHEDULED if scheduled else set())
    for name, value in group.items():
        if name not in moved and (name not in then or _plain(value) != then[name]):
            expected = shown(then[name]) if name in then else "no such option"
            raise CheckpointError(f"{place}.{name}: expected {expected}, got {shown(value)}")


def _not_plain(value: Any, place: str) -> str | None:
    """Return the place of what `_plain` does not return, such as a tensor, which cannot be compared as a value is."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next((found for name, item in items if (found := _not_plain(item, f"{place}.{name}"))), None)
    return None if isinstance(value, bool | int | float | str | None) else place


def scale_rates(optimizer: Optimizer, schedules: Iterable[Any], factor: float) -> None:
    """Multiply an optimizer's rates, so that its schedules go on from there.

    Args:
        optimizer: the optimizer.
        schedules: its schedules.
        factor: what the rates are multiplied by.
    """
    for group in optimizer.param_groups:
        group |= {name: group[name] * factor for name in RATES if name in group}
    _scale_bases(schedules, factor)


def _scale_bases(schedules: Iterable[Any], factor: float) -> None:
    for schedule in schedules:
        for name in ("base_lrs", "max_lrs"):
            if hasattr(schedule, name):
                setattr(schedule, name, [rate * factor for rate in getattr(schedule, name)])
        _scale_bases(getattr(schedule, "_schedulers", ()), factor)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what one plan has in place of another, in words."""
    told: dict[str, list[str]] = {}
    for old, new, was, is_ in zip(*(plan[key] for key in ("groups", "scheduled") for plan in (then, now)), strict=True):
        # A schedule that begins with a rate of its own asks for no other.
        same_start = then["schedule"] == now["schedule"] is not None and was.get("initial_lr") == is_.get("initial_lr")
        for name in (name for name in new if name in old):
            if old[name] != new[name] and not (name == "lr" and same_start):
                told.setdefault(f"{name} {new[name]} instead of {old[name]}", []).append(str(new.get("name", "")))
        for name in (name for name in is_ if name in was and then["schedule"] == now["schedule"]):
            option = "lr" if name in RATES else name
            if was[name] != is_[name] and old.get(option) == new.get(option):
                told.setdefault(f"{name} {is_[name]} instead of {was[name]}", []).append(str(new.get("name", "")))
    everywhere = len(now["groups"])
    words = [
        what if len(parts) == everywhere else f"{what} for the {' and the '.join(parts)}"
        for what, parts in told.items()
    ]
    if then["schedule"] != now["schedule"]:
        names = [(plan["schedule"] or "no schedule").rpartition(".")[2] for plan in (now, then)]
        return [*words, " instead of ".join(names)]
    for name, new in now["arguments"].items():
        old = then["arguments"].get(name, new)
        if old != new and name != "base_lrs":
            words.append(f"other {name.strip('_')}" if name.startswith("_") else f"{name} {new} instead of {old}")
    return words


def _options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of an optimizer's groups as plain data."""
    return [
        {name: _plain(value) for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]


def _arguments(schedule: LRScheduler) -> dict[str, Any]:
    """Return a schedule's state that says what it was made of, as plain data."""
    plain: dict[str, Any] = _plain(schedule.state_dict())
    named = inspect.signature(type(schedule).__init__).parameters.keys() | {"base_lrs", "max_lrs", "min_lrs"}
    return {
        name: value
        for name, value in plain.items()
        if (name in named or name in ("_schedulers", "_milestones", "_schedule_phases")) and name != "last_epoch"
    }


def _plain(value: Any) -> Any:
    """Return a value as a checkpoint can hold it that is read without pickle; other things by their type's name."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else f"<{type(value).__name__}>"


def _path(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


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
