"""The outer optimizer and its schedule as plain data, which checkpoints hold, and the differences between two plans."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gtn_lightning.inner_loop.torch_internals import SCHEDULE_STATE
from gtn_lightning.meta_training.checkpoints import CheckpointError, is_number, misfit, shown
from gtn_lightning.meta_training.schedules import RATES


def group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of an optimizer's groups as plain data."""
    return [
        {name: plain(value) for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]


def schedule_arguments(schedule: LRScheduler | ReduceLROnPlateau) -> dict[str, Any]:
    """Return the part of a schedule's state that says how it was made, as plain data."""
    state: dict[str, Any] = plain(schedule.state_dict())
    arguments = inspect.signature(type(schedule).__init__).parameters.keys() | {"base_lrs", "max_lrs", "min_lrs"}
    return {
        name: value
        for name, value in state.items()
        if (name in arguments or name in SCHEDULE_STATE) and name != "last_epoch"
    }


def plain(value: Any) -> Any:
    """Return a value in a form that is read without pickle; other values than data become their type's name."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else f"<{type(value).__name__}>"


def check_plan(plan: Any) -> None:
    """Raise ``CheckpointError`` unless a value is what `OuterOptimization.plan` returns."""
    if not isinstance(plan, Mapping) or not isinstance(plan.get("optimizer"), str):
        raise CheckpointError(f"outer: expected the plan of the outer optimizer, got {shown(plan)}")
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


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how one plan differs from an earlier one, as phrases such as "lr 0.5 instead of 0.1"."""
    changes: dict[str, list[str]] = {}
    for old, new, was, is_ in zip(*(plan[key] for key in ("groups", "scheduled") for plan in (then, now)), strict=True):
        # With a schedule that starts with its own rate, the optimizer's rate has no effect.
        same_start = then["schedule"] == now["schedule"] is not None and was.get("initial_lr") == is_.get("initial_lr")
        for name in (name for name in new if name in old):
            if old[name] != new[name] and not (name == "lr" and same_start):
                changes.setdefault(f"{name} {new[name]} instead of {old[name]}", []).append(str(new.get("name", "")))
        for name in (name for name in is_ if name in was and then["schedule"] == now["schedule"]):
            option = "lr" if name in RATES else name
            if was[name] != is_[name] and old.get(option) == new.get(option):
                changes.setdefault(f"{name} {is_[name]} instead of {was[name]}", []).append(str(new.get("name", "")))
    everywhere = len(now["groups"])
    phrases = [
        change if len(parts) == everywhere else f"{change} for the {' and the '.join(parts)}"
        for change, parts in changes.items()
    ]
    if then["schedule"] != now["schedule"]:
        names = [(plan["schedule"] or "no schedule").rpartition(".")[2] for plan in (now, then)]
        return [*phrases, " instead of ".join(names)]
    for name, new in now["arguments"].items():
        old = then["arguments"].get(name, new)
        if old != new and name != "base_lrs":
            phrases.append(f"other {name.strip('_')}" if name.startswith("_") else f"{name} {new} instead of {old}")
    return phrases


def _not_plain(value: Any, place: str) -> str | None:
    """Return the place of a value that `plain` never returns, such as a tensor, or None."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next((found for name, item in items if (found := _not_plain(item, f"{place}.{name}"))), None)
    return None if isinstance(value, bool | int | float | str | None) else place
