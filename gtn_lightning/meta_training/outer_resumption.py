"""Whether and how the outer optimizer and its schedule continue from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.checkpoints import CheckpointError, misfit, shown
from gtn_lightning.meta_training.optimizer_errors import REFUSALS
from gtn_lightning.meta_training.outer import OuterOptimization
from gtn_lightning.meta_training.outer_plan import check_plan, differences, plain
from gtn_lightning.meta_training.schedules import RATES, SCHEDULED

RESTART = "or begin anew from the run's teacher.safetensors with --teacher in place of --ckpt_path"


def check_outer(outer: OuterOptimization, then: Mapping[str, Any], steps: int) -> None:
    """Check that a run that began with another plan can continue with this one.

    Args:
        outer: the optimizer and schedule of the recipe.
        then: what `OuterOptimization.plan` returned when the run began, or was resumed the last time.
        steps: number of meta-steps that the run has taken.

    Raises:
        RecipeError: if the optimizer's state belongs to another optimizer, or the schedule has ended by then.
        CheckpointError: if ``then`` is no plan.
    """
    check_plan(then)
    now = outer.plan()
    if then["optimizer"] != now["optimizer"]:
        raise RecipeError(
            f"model.outer_optimizer must be {then['optimizer']}, whose state the checkpoint holds; got "
            f"{now['optimizer']}: continue with the former, {RESTART}"
        )
    parts = [[group.get("name", "without a name") for group in plan["groups"]] for plan in (then, now)]
    if parts[0] != parts[1]:
        raise RecipeError(
            f"model.outer_optimizer must have the checkpoint's groups of parameters, {', '.join(parts[0])}, got "
            f"{', '.join(parts[1])}: learn the same parts as before, {RESTART}"
        )
    if differences(then, now):
        outer.after(steps)
    different = {
        name
        for old, new in zip(then["groups"], now["groups"], strict=True)
        for name in old.keys() & new.keys()
        if old[name] != new[name]
    }
    if not different - {"lr"}:
        return
    trial = outer.optimizer_of(outer.stand_ins(steppable=True))
    try:
        for plan in (then, now):
            for group, options in zip(trial.param_groups, plan["groups"], strict=True):
                group |= {name: options[name] for name in different & options.keys()}
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            trial.step()
    except (LookupError, AttributeError, *REFUSALS) as error:
        raise RecipeError(
            f"model.outer_optimizer.init_args: {', '.join(sorted(different - {'lr'}))} cannot be changed in a resumed "
            f"run, because the checkpoint has no state for it: leave it as it was, {RESTART}"
        ) from error


def check_outer_state(outer: OuterOptimization, checkpoint: Mapping[str, Any]) -> None:
    """Check that the state of optimizer and schedule in a checkpoint is complete and of the parameters' shapes.

    Args:
        outer: the optimizer and schedule of the recipe.
        checkpoint: a checkpoint whose plan `check_outer` has accepted.

    Raises:
        CheckpointError: if it is not.
    """
    then, now, states = checkpoint["outer"], outer.plan(), checkpoint["optimizer_states"]
    if len(states) != 1:
        raise CheckpointError(f"optimizer_states: expected that of one optimizer, got {len(states)}")
    fresh = _after_one_step(outer, then["groups"])
    groups, wanted = states[0].get("param_groups"), fresh["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(wanted):
        raise CheckpointError(f"optimizer_states.0.param_groups: expected {len(wanted)} groups, got {shown(groups)}")
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
    # A schedule with changed arguments takes nothing from the checkpoint.
    is_same = (then["schedule"], then["arguments"]) == (now["schedule"], now["arguments"])
    if outer.lr_scheduler is not None and is_same:
        schedule = outer.lr_scheduler(outer.optimizer_of(outer.stand_ins()))
        if fault := misfit(schedules[0], schedule.state_dict(), "lr_schedulers.0", whole=False):
            raise CheckpointError(fault)


def follow_recipe(
    outer: OuterOptimization,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    then: Mapping[str, Any],
    steps: int,
    reduction: float = 1.0,
) -> list[str]:
    """Apply the changes of a resumed run's recipe to its optimizer and schedule.

    A checkpoint restores the optimizer's options and the schedule's arguments, which would override the recipe. If the
    recipe is unchanged, nothing is touched. The functions of a ``LambdaLR`` are not compared.

    Args:
        outer: the optimizer and schedule of the recipe.
        optimizer: the optimizer, as the checkpoint left it.
        schedule: its schedule, likewise, or a new one if it is another than the checkpoint's.
        then: what `OuterOptimization.plan` returned when the run began, or was resumed the last time.
        steps: number of steps that the schedule would have taken by now, had the run begun with it.
        reduction: the factor by which the rates were reduced since.

    Returns:
        The changes, as phrases.
    """
    changed = differences(then, outer.plan())
    if not changed:
        return []
    wanted, advanced = outer.after(steps, reduction)
    is_plateau = isinstance(schedule, ReduceLROnPlateau)
    for group, now, old in zip(optimizer.param_groups, wanted.param_groups, then["groups"], strict=True):
        if is_plateau:  # its rate depends on the metric so far
            now["lr"] = group["lr"] * now["lr"] / (old["lr"] * reduction)
        for name in group.keys() - now.keys():
            del group[name]
        group |= {name: value for name, value in now.items() if name != "params"}
    if advanced is not None and schedule is not None:
        schedule.load_state_dict(advanced.state_dict())
    return changed


def _after_one_step(outer: OuterOptimization, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the state of an optimizer with such options after one step, with tensors on the meta device.

    It is empty for an optimizer that cannot take a step there.
    """
    shapes: dict[str, list[Tensor]] = {
        name: [nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in part]
        for name, part in outer.parameters.items()
    }
    optimizer = outer.optimizer_of(shapes)
    for group, options in zip(optimizer.param_groups, groups, strict=True):
        group |= {name: value for name, value in options.items() if name in group}
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except (LookupError, AttributeError, *REFUSALS):
        optimizer = outer.optimizer_of(shapes)
    return optimizer.state_dict()


def _check_options(group: Mapping[str, Any], then: Mapping[str, Any], scheduled: bool, place: str) -> None:
    """Raise ``CheckpointError`` if options that no schedule changes differ from those at the beginning of the run."""
    moved = {"params", *RATES} | (SCHEDULED if scheduled else set())
    for name, value in group.items():
        if name not in moved and (name not in then or plain(value) != then[name]):
            expected = shown(then[name]) if name in then else "no such option"
            raise CheckpointError(f"{place}.{name}: expected {expected}, got {shown(value)}")
