"""Resuming from a checkpoint: checks that it belongs to the run, and applies changes of the recipe."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import pl, rank_zero_info
from gtn_lightning.meta_training.checkpoints import (
    CheckpointError,
    check_kept_files,
    check_progress,
    check_state_dict,
    is_number,
    shown,
)
from gtn_lightning.meta_training.cost import Cost
from gtn_lightning.meta_training.outer import OuterOptimization
from gtn_lightning.meta_training.outer_resumption import check_outer, check_outer_state, follow_recipe
from gtn_lightning.meta_training.recovery import Recovery
from gtn_lightning.teacher_file import check_state


class Resumption:
    """Saves and restores what a resumed run needs besides Lightning's own state.

    Args:
        recovery: skipped meta-steps and reduced rates, which checkpoints keep.
        cost: the cost of meta-training, which checkpoints keep too.
    """

    def __init__(self, recovery: Recovery, cost: Cost) -> None:
        self._recovery = recovery
        self._cost = cost
        self._resumed_at: int | None = None
        self._earlier_plan: dict[str, Any] | None = None

    def save(self, checkpoint: dict[str, Any], trainer: pl.Trainer | None, outer: OuterOptimization | None) -> None:
        """Add to a checkpoint what `check_checkpoint` and `load` need.

        Args:
            checkpoint: Lightning's checkpoint.
            trainer: the trainer of the run.
            outer: the outer optimizer and its schedule; None if a subclass makes its own.
        """
        checkpoint["recovery"] = self._recovery.state_dict()
        checkpoint["meta_training"] = self._cost.so_far(trainer)
        if outer is not None:
            checkpoint["outer"] = outer.plan()

    def load(self, checkpoint: dict[str, Any], outer: OuterOptimization | None, going_on: bool) -> None:
        """Restore skipped meta-steps and cost from a checkpoint that `check_checkpoint` has accepted.

        Args:
            checkpoint: the content of the file; a schedule that the recipe has replaced is removed from it.
            outer: the outer optimizer and its schedule; None if a subclass makes its own.
            going_on: whether a run resumes from it, rather than only loading the weights.
        """
        if going_on:
            self._resumed_at = checkpoint["global_step"]
            if "outer" in checkpoint and outer is not None:
                self._earlier_plan = checkpoint["outer"]
                if self._earlier_plan["schedule"] != outer.plan()["schedule"]:
                    checkpoint["lr_schedulers"] = []  # see begin
        if "recovery" in checkpoint:
            self._recovery.load_state_dict(checkpoint["recovery"])
        if "meta_training" in checkpoint:
            self._cost.seconds = float(checkpoint["meta_training"]["seconds"])

    def begin(self, trainer: pl.Trainer, outer: OuterOptimization | None) -> None:
        """Apply changes of a resumed run's recipe to its outer optimizer and schedule, and report them.

        Raises:
            CheckpointError: if the loops' count of meta-steps differs from the checkpoint's, or a callback would remove
                files that are not the run's.
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
        if changed := follow_recipe(outer, optimizer, schedule, earlier, trainer.global_step, reduction):
            reduced = "" if reduction == 1 else f", times the {reduction:g} that Recovery has reduced the rates to"
            rank_zero_info(
                f"the outer optimizer goes on with {', '.join(changed)}{reduced}, from meta-step "
                f"{trainer.global_step} on"
            )


def check_checkpoint(
    checkpoint: dict[str, Any],
    state: Mapping[str, Tensor],
    outer: OuterOptimization | None,
    trainer: pl.Trainer | None,
    source: str,
) -> None:
    """Check that a checkpoint belongs to a module and has valid contents.

    Args:
        checkpoint: the content of the file.
        state: the module's state.
        outer: its outer optimizer and schedule; None if a subclass makes its own.
        trainer: the trainer of the run that resumes from it; None if only the weights are loaded.
        source: the name of the checkpoint in errors about another architecture.

    Raises:
        CheckpointError: if something is missing or invalid.
        RecipeError: if it belongs to another architecture or outer optimizer, or the schedule has ended by then.
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
            "the checkpoint does not describe its outer optimizer, like those of earlier versions: begin anew "
            "from the run's teacher.safetensors with --teacher in place of --ckpt_path"
        )
    check_outer(outer, checkpoint["outer"], checkpoint["global_step"])
    check_outer_state(outer, checkpoint)
