"""What a checkpoint has to hold before a run goes on from it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from gtn_lightning.data import DigitsData
from gtn_lightning.meta_training.checkpoints import CheckpointError, misfit
from gtn_lightning.module import GTN
from tests.tiny import make_gtn, make_trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, max_steps=2)
    trainer.fit(make_gtn(), DigitsData(batch_size=64))
    trainer.save_checkpoint(folder / "whole.ckpt")
    content: dict[str, Any] = torch.load(folder / "whole.ckpt", weights_only=True)
    return content


@pytest.fixture
def gtn() -> GTN:
    return make_gtn()


@pytest.fixture
def trainer(tmp_path: Path) -> pl.Trainer:
    return make_trainer(tmp_path, max_steps=4)


def changed(checkpoint: dict[str, Any], place: str, value: Any = None) -> dict[str, Any]:
    """Return a copy in which a value is replaced, or left out if there is none."""
    content = deepcopy(checkpoint)
    parent: Any = content
    *above, last = (int(key) if key.isdecimal() else key for key in place.split("/"))
    for key in above:
        parent = parent[key]
    if value is None:
        del parent[last]
    else:
        parent[last] = value
    return content


def test_a_whole_one_passes(checkpoint: dict[str, Any], gtn: GTN, trainer: pl.Trainer) -> None:
    gtn.check_checkpoint(checkpoint, trainer)


FIRST = "optimizer_states/0/state/0/exp_avg"
COUNT = "loops/fit_loop/epoch_loop.batch_progress/total/completed"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("pytorch-lightning_version", None, "which version of Lightning"),
        ("pytorch-lightning_version", 2, "which version of Lightning"),
        ("state_dict", {}, "state_dict is empty"),
        ("state_dict/teacher.pixels", [0.0], r"state_dict.teacher.pixels: expected a tensor, got a list"),
        ("state_dict/teacher.pixels", torch.zeros(2).to_sparse(), "expected a dense tensor of real numbers"),
        ("state_dict/teacher.pixels", torch.zeros(2, dtype=torch.complex64), "expected a dense tensor of real numbers"),
        ("recovery", {}, "recovery.skipped: it is missing"),
        ("recovery", "text", "recovery: expected a mapping, got 'text'"),
        ("recovery/in_a_row", -1, "recovery.in_a_row: expected a number of steps, got -1"),
        ("recovery/reduction", 0.0, "recovery.reduction: expected a number above 0"),
        ("meta_training", {}, "meta_training: expected seconds"),
        ("meta_training/seconds", float("nan"), "meta_training: expected seconds"),
        ("global_step", -2, "global_step: expected a number of meta-steps, got -2"),
        ("global_step", "two", "global_step: expected a number of meta-steps, got 'two'"),
        ("global_step", 10**18, "global_step: expected at most 100000000 meta-steps, got 1000000000000000000"),
        ("global_step", 10**400, "an integer of more than 64 bits"),
        ("optimizer_states", None, "does not hold optimizer_states, as if saved with save_weights_only=True"),
        ("optimizer_states", [], "optimizer_states: expected that of one optimizer, got 0"),
        ("optimizer_states/0/state", {}, "optimizer_states.0.state: it is empty"),
        (FIRST, None, "optimizer_states.0.state.0.exp_avg: it is missing"),
        (FIRST, torch.zeros(1), r"optimizer_states.0.state.0.exp_avg: expected a tensor of shape .* of shape \[1\]"),
        ("optimizer_states/0/param_groups/0/params", [5], "param_groups.0.params"),
        ("optimizer_states/0/param_groups/0/lr", "fast", "param_groups.0.lr: expected a number, got 'fast'"),
        ("loops", None, "does not hold loops"),
        ("loops/fit_loop", None, "loops.fit_loop: it is missing"),
        (COUNT, None, "completed: it is missing"),
        (COUNT, -1, "completed: expected a number of steps, got -1"),
        (COUNT, 2.0, "completed: expected a number of steps, got 2.0"),
        ("callbacks", [], "callbacks: expected a dict"),
        ("callbacks", {"GradientNorm": 3}, "callbacks.GradientNorm: expected a dict, got 3"),
        ("outer", "Adam", "outer: expected the plan of the outer optimizer, got 'Adam'"),
        ("outer/groups", [], "outer.groups: expected a list of groups"),
        ("outer/scheduled", [{}], "outer.scheduled: expected as many groups"),
        ("outer/groups/0/betas", torch.zeros(3), "outer.groups.0.betas: expected a number"),
        ("outer/scheduled/0/eps", [torch.zeros(3)], r"outer.scheduled.0.eps.0: expected a number"),
        ("lr_schedulers", [{}], "lr_schedulers: expected that of None, got 1"),
    ],
)
def test_what_is_odd_is_named(
    place: str, value: Any, message: str, checkpoint: dict[str, Any], gtn: GTN, trainer: pl.Trainer
) -> None:
    with pytest.raises(CheckpointError, match=message) as refusal:
        gtn.check_checkpoint(changed(checkpoint, place, value), trainer)
    assert "\n" not in str(refusal.value)


def test_the_weights_alone_are_enough_for_a_test(checkpoint: dict[str, Any], gtn: GTN) -> None:
    gtn.check_checkpoint({name: checkpoint[name] for name in ("pytorch-lightning_version", "state_dict")})


def test_loops_that_count_other_meta_steps(checkpoint: dict[str, Any], gtn: GTN, tmp_path: Path) -> None:
    torch.save(changed(checkpoint, "global_step", 1), tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="global_step is 1, but the loops count 2 meta-steps"):
        make_trainer(tmp_path, max_steps=4).fit(gtn, DigitsData(batch_size=64), ckpt_path=tmp_path / "odd.ckpt")


def test_a_schedule_that_is_odd(gtn: GTN, tmp_path: Path) -> None:
    def scheduled() -> GTN:
        return make_gtn(outer_lr_scheduler=lambda made: torch.optim.lr_scheduler.StepLR(made, 2))

    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(scheduled(), DigitsData(batch_size=64))
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    content = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    scheduled().check_checkpoint(content, trainer)
    for place, value in (("step_size", "often"), ("last_epoch", [1]), ("base_lrs", [0.1] * 9)):
        with pytest.raises(CheckpointError, match=rf"lr_schedulers\.0\.{place}: expected"):
            scheduled().check_checkpoint(changed(content, f"lr_schedulers/0/{place}", value), trainer)


@pytest.mark.parametrize(
    ("given", "template", "fault"),
    [
        ({"a": 1, "b": 2}, {"a": 0}, None),
        ({"a": 1}, {"a": 0, "b": 0}, "x.b: it is missing"),
        ({"a": [1, 2]}, {"a": (0, 0)}, None),
        ([1], [0, 0], "x: expected 2 values, got 1"),
        (True, 0, "x: expected a number, got True"),
        (float("inf"), 0.0, None),
        (torch.tensor(0.5), 0.0, None),
        (1, True, "x: expected true or false, got 1"),
        ("a" * 100, {}, "x: expected a mapping, got 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."),
    ],
)
def test_kinds_of_values(given: Any, template: Any, fault: str | None) -> None:
    assert misfit(given, template, "x") == fault
