"""Going on from a checkpoint: that it belongs to the run, and what the recipe says since."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.checkpoints import (
    CheckpointError,
    check_kept_files,
    check_progress,
    check_state_dict,
    is_number,
    shown,
)
from gtn_lightning.meta_training.outer import OuterOptimization
from gtn_lightning.meta_training.recovery import Recovery
from gtn_lightning.teacher_file import check_state


class Resumption:
    """Whether and how a run goes on from a checkpoint.

    Args:
        recovery: what was skipped and reduced, which checkpoints keep.
    """

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        self._resumed_at: int | None = None
        self._earlier_plan: dict[str, Any] | None = None
        self.seconds = 0.0
        """What meta-training cost before the checkpoint, wall-clock seconds."""

    def save(self, checkpoint: dict[str, Any], cost: Mapping[str, float], outer: OuterOptimization | None) -> None:
        """Put into a checkpoint what `check` and `load` look for.

        Args:
            checkpoint: what Lightning has put together.
            cost: what meta-training cost so far.
            outer: the outer optimizer and its schedule; None if a subclass makes its own.
        """
        checkpoint["recovery"] = self._recovery.state_dict()
        checkpoint["meta_training"] = dict(cost)
        if outer is not None:
            checkpoint["outer"] = outer.plan()

    def load(self, checkpoint: dict[str, Any], outer: OuterOptimization | None, going_on: bool) -> None:
        """Take what was skipped and spent from a checkpoint that `check` has passed.

        Args:
            checkpoint: what the file holds; a schedule that the recipe has replaced is taken out.
            outer: the outer optimizer and its schedule; None if a subclass makes its own.
            going_on: whether a run goes on from it, and not only the weights are taken.
        """
        if going_on:
            self._resumed_at = checkpoint["global_step"]
            if "outer" in checkpoint and outer is not None:
                self._earlier_plan = checkpoint["outer"]
                if self._earlier_plan["schedule"] != outer.plan()["schedule"]:
                    checkpoint["lr_schedulers"] = []  # of another schedule, see begin
        if "recovery" in checkpoint:
            self._recovery.load_state_dict(checkpoint["recovery"])
        if "meta_training" in checkpoint:
            self.seconds = float(checkpoint["meta_training"]["seconds"])

    def begin(self, trainer: pl.Trainer, outer: OuterOptimization | None) -> None:
        """Let the outer optimizer and schedule of a resumed run go on as the recipe says, and say what is new.

        Raises:
            CheckpointError: if the loops do not stand where the checkpoint said, or a callback would remove files of
                others.
        """
        resumed_at, self._resumed_at = self._resumed_at, None
        if resumed_at not in (None, trainer.global_step):
            raise CheckpointError(f"global_step is {resumed_at}, but the loops count {trainer.global_step} meta-steps")
        if resumed_at is not None:
            check_kept_files(trainer)
        earlier, self._earlier_plan = self._earlier_plan, None
        if earlier is None or outer is None:
            return
        (optimizer,) = trainer.optimizers
        schedule = next((config.scheduler for config in trainer.lr_scheduler_configs), None)
        reduction = self._recovery.reduction
        if changed := outer.follow(optimizer, schedule, earlier, trainer.global_step, reduction):
            reduced = "" if reduction == 1 else f", times the {reduction:g} that Recovery has reduced the rates to"
            rank_zero_info(
                f"the outer optimizer goes on with {', '.join(changed)}{reduced}, from meta-step {trainer.global_step} "
                "on"
            )


def check_checkpoint(
    checkpoint: dict[str, Any],
    state: Mapping[str, Tensor],
    outer: OuterOptimization | None,
    trainer: pl.Trainer | None,
    source: str,
) -> None:
    """See that a checkpoint belongs to a module, and that nothing odd is in it.

    Args:
        checkpoint: what the file holds.
        state: the module's state.
        outer: its outer optimizer and schedule; None if a subclass makes its own.
        trainer: the trainer of the run that is to go on from it; None if only the weights are taken.
        source: what errors about another architecture call it.

    Raises:
        CheckpointError: if it lacks something, or holds what no run has put there.
        RecipeError: if it is another architecture's or another outer optimizer's, or the schedule is over by then.
    """
    check_state_dict(checkpoint)
    check_state(state, checkpoint["state_dict"], source)
    Recovery().load_state_dict(checkpoint.get("recovery", Recovery().state_dict()))
    spent = checkpoint.get("meta_training", {"seconds": 0.0})
    seconds: Any = spent.get("seconds") if isinstance(spent, dict) else None
    if not is_number(seconds) or not 0 <= float(seconds) < float("inf"):
        raise CheckpointError(f"meta_training: expected seconds of 0 or more, got {shown(seconds)}")
    if trainer is None:
        return
    check_progress(checkpoint, trainer)
    if outer is None:
        return
    if "outer" not in checkpoint:
        raise RecipeError(
            "the checkpoint does not say what its outer optimizer was, as those of earlier versions: begin anew "
            "from the run's teacher.safetensors with --teacher in place of --ckpt_path"
        )
    outer.check(checkpoint["outer"], checkpoint["global_step"])
    outer.check_state(checkpoint)
