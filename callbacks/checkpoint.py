"""Checkpoints to resume from, and the best teacher to take away."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from gtn_lightning.callbacks.checkpoint_io import AtomicCheckpointIO
from gtn_lightning.callbacks.resumption import begins_with_validation, settle_counts
from gtn_lightning.callbacks.writing import keep_loggers_going, unless_unwritable
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import UnwritableError, whole_file
from gtn_lightning.lightning import (
    LightningModule,
    ModelCheckpoint,
    TorchCheckpointIO,
    Trainer,
    TrainerFn,
    WeightAveraging,
    rank_zero_info,
    rank_zero_warn,
)
from gtn_lightning.lightning_internals import checkpoint_state
from gtn_lightning.meta_training.checkpoints import PATHS, CheckpointError, misfit_of_files
from gtn_lightning.teacher_file import record_meta_training

TEACHER_FILE = "teacher.safetensors"


class TeacherCheckpoint(ModelCheckpoint):
    """Keeps the best and the last state of meta-training, and the best teacher as a separate file.

    After every validation ``last.ckpt`` is written and, if the validation was the best so far,
    ``best-<meta-step>.ckpt`` and ``<run folder>/teacher.safetensors``. The checkpoints are Lightning's, to resume from;
    the teacher file loads without pickle. ``last.ckpt`` is also written when meta-training ends, is interrupted or
    fails, so that no meta-step is lost. A resumed run keeps the best score so far, even if the run folder was renamed.
    A run that was interrupted within a meta-step or a validation is resumed at its beginning.

    Differs from ``ModelCheckpoint`` in three ways:

    * ``last.ckpt`` is written after every validation, not only together with a best checkpoint.
    * All checkpoints of the run are complete or absent, see `AtomicCheckpointIO`. A checkpoint plugin of the trainer
      is not replaced.
    * The checkpoint on an exception is ``last.ckpt``, and is written without waiting for other processes.

    Callbacks that average weights use the average during a validation only. The teacher file holds the weights that
    were scored; a checkpoint written during a validation holds those with which meta-training continues.

    Args:
        dirpath: folder of the checkpoints; ``<run folder>/checkpoints`` by default.
        filename: name of the best checkpoints, a template of ``step``, ``epoch`` and logged names.
        monitor: the logged name that decides which is best; None for the task's leading metric.
        mode: ``max`` if more of it is better, ``min`` if less is; None for the direction that the task gives its
            metric, ``min`` for losses, and ``max`` for other names.
        save_top_k: how many of the best checkpoints are kept; -1 keeps one per validation.
        on_write_error: what happens if a file of the run cannot be written, for instance on a full disk: ``raise`` ends
            the run with an error, ``warn`` warns and tries again next time. It also holds for this package's other
            callbacks and for loggers. Earlier files stay as they were.

    Raises:
        RecipeError: if ``save_top_k`` is 0, which would keep no teacher.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import LearningCurve, SampleGrid, TeacherCheckpoint
        >>> callbacks = [TeacherCheckpoint(), SampleGrid(), LearningCurve()]
        >>> validation = {"val_check_interval": 100, "check_val_every_n_epoch": None}
        >>> trainer = pl.Trainer(max_steps=600, callbacks=callbacks, **validation)
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best-{step}",
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        save_top_k: int = 1,
        on_write_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        if save_top_k == 0:
            raise RecipeError("TeacherCheckpoint.save_top_k must be at least 1, or -1 for all, got 0")
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor or "",  # `setup` knows the task
            mode=mode or "max",
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            # A second run in a folder replaces last.ckpt; resuming would not find last-v1.ckpt.
            enable_version_counter=False,
        )
        self.on_write_error = on_write_error
        self._given_monitor = monitor
        self._given_mode = mode
        self._saved_at = 0
        self._training_began = False
        self._stepping_in = -1
        self._validating = False
        self._validates_at: int | None = None
        self._began_at = 0
        self._trained: dict[str, Tensor] | None = None
        self._scored: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder of the checkpoints and how they are written.

        Raises:
            RecipeError: if a part cannot be described, so that no teacher file could be written.
        """
        if stage == "fit":
            gtn: Any = pl_module
            gtn.description()  # raises here rather than at the first save
            try:
                _described_data(trainer)
            except (RecipeError, ValueError) as error:  # a user's data module need not be describable
                rank_zero_warn(f"the teacher file will not name its data, to use it again give --data ({error})")
        self._monitor_the_task(pl_module)
        if self.on_write_error == "warn":
            keep_loggers_going(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if self.dirpath is None:
            self.dirpath = os.path.join(trainer.default_root_dir, "checkpoints")
        super().setup(trainer, pl_module, stage)

    def _monitor_the_task(self, gtn: Any) -> None:
        """Let the task's leading metric decide which checkpoint is best, and the task which direction is better."""
        metrics = {f"val/{metric.name}": metric for metric in gtn.task.metrics()}
        self.monitor = self._given_monitor or next(iter(metrics))
        higher = metrics[self.monitor].higher_is_better if self.monitor in metrics else "loss" not in self.monitor
        self.mode = self._given_mode or ("max" if higher else "min")
        if not self.best_k_models:
            self.kth_value = torch.tensor(-torch.inf if self.mode == "max" else torch.inf)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a run that was interrupted in its last validation repeat it: Lightning would end at once."""
        if self._validates_at is not None and 0 <= trainer.max_steps <= self._validates_at:
            trainer.fit_loop.epoch_loop.max_steps = self._validates_at + 1
        else:
            self._validates_at = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to keep checkpoints."""
        super().on_train_start(trainer, pl_module)
        self._training_began = True
        self._stepping_in, self._validating = -1, False
        self._began_at = trainer.global_step
        self._trained = self._scored = None
        teacher = Path(trainer.default_root_dir) / TEACHER_FILE
        if trainer.ckpt_path is None or not trainer.is_global_zero or teacher.exists():
            return
        # In a new run folder the best score so far may never be beaten, so its teacher is copied.
        earlier = Path(trainer.ckpt_path).parent.parent / TEACHER_FILE
        if earlier.exists():
            with unless_unwritable(trainer, f"{TEACHER_FILE} of the run that goes on"), whole_file(teacher) as part:
                part.write_bytes(earlier.read_bytes())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record the batch in which the weights start to change."""
        self._stepping_in = trainer.fit_loop.epoch_loop.total_batch_idx

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the run end with a validation, even if its length is no multiple of their interval."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # the last batch anyway; Lightning then validates

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights with which meta-training continues: other callbacks may replace them by averages."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validating = True
            self._trained = _copied(pl_module)
            if self._validates_at is not None:
                trainer.fit_loop.epoch_loop.max_steps = self._validates_at
                self._validates_at = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the weights that are scored, for the teacher file."""
        if self._trained is not None and self._scored is None:
            self._scored = _copied(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best checkpoint, if the validation was the best so far, and the last."""
        self._trained = None
        self._validating = False
        try:
            if self._is_saved(trainer):
                return
            loss = f"meta-step {trainer.global_step} is not saved"
            with unless_unwritable(trainer, "the best checkpoint", loss):
                self._save_best(trainer, pl_module)
            with unless_unwritable(trainer, "the last checkpoint", loss):
                self._save_last(trainer)
        except BaseException:
            self._validating = True  # its result is not saved
            raise
        finally:
            self._scored = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights with which meta-training continues: averages may replace them when it ends."""
        super().on_train_epoch_end(trainer, pl_module)
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._trained = _copied(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the module's weights again."""
        self._trained = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last checkpoint, if meta-steps followed the last validation; write the cost to the teacher file."""
        if not self._is_saved(trainer):
            with unless_unwritable(
                trainer, "the last checkpoint at the end", f"meta-step {trainer.global_step} is not saved"
            ):
                self._save_last(trainer)
        teacher = Path(trainer.default_root_dir) / TEACHER_FILE
        if trainer.is_global_zero and teacher.exists():
            gtn: Any = pl_module
            try:
                record_meta_training(teacher, gtn.meta_training())
            except RecipeError as error:
                rank_zero_warn(f"{teacher} keeps the cost up to its own meta-step: {error}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last checkpoint."""
        if self._is_saved(trainer) or not trainer.is_global_zero:
            return
        if not self._training_began:  # a resumed state may be restored in part, and no meta-step is lost
            return
        loop = trainer.fit_loop.epoch_loop
        counts: Any = loop.batch_progress.current
        if self._stepping_in == loop.total_batch_idx and counts.processed < counts.ready:
            rank_zero_warn(f"meta-step {trainer.global_step + 1} was interrupted during the outer optimizer's step")
            return
        if trainer.global_step == self._began_at and isinstance(exception, Exception):
            return  # the error may come from the checkpoint that the run was resumed from
        self.last_model_path = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        try:
            # Without a barrier: other processes may have ended, or wait for this one elsewhere.
            trainer.strategy.save_checkpoint(checkpoint_state(trainer), self.last_model_path)
        except (RecipeError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or "out of memory"
            rank_zero_warn(f"meta-step {trainer.global_step} is lost: {reason}")
        else:
            rank_zero_info(f"Saved meta-step {trainer.global_step} to {self.last_model_path}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Complete a checkpoint: settled counts, and the weights with which meta-training continues."""
        settle_counts(checkpoint["loops"], trainer.accumulate_grad_batches, self._validating)
        held = pl_module.state_dict()
        if self._trained is None or all(torch.equal(held[name].cpu(), self._trained[name]) for name in held):
            return
        # The module holds averaged weights. Lightning's callbacks store both, and confuse them here.
        if "current_model_state" in checkpoint:
            checkpoint |= {"current_model_state": self._trained, "state_dict": held}
        else:
            checkpoint["state_dict"] = self._trained

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record whether the run continues with a validation."""
        if trainer.state.fn == TrainerFn.FITTING and begins_with_validation(checkpoint.get("loops") or {}):
            self._validates_at = checkpoint["global_step"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the best score and the files of the resumed run, even if its folder was moved.

        Lightning drops the score if the folder has changed; any next validation would then count as the best.

        Raises:
            CheckpointError: if it is not what `state_dict` returns.
        """
        if fault := misfit_of_files(state_dict, "the state of TeacherCheckpoint"):
            raise CheckpointError(fault)
        assert self.dirpath is not None
        folder = Path(self.dirpath)

        def here(path: str) -> str:
            # Lightning removes the file that a better one replaces, at the path that is stored here.
            return str(folder / Path(path).name) if path else ""

        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                **{name: here(state_dict[name]) for name in PATHS},
                "best_k_models": {here(path): score for path, score in state_dict["best_k_models"].items()},
            }
        )

    def _is_saved(self, trainer: Trainer) -> bool:
        """Return whether the current meta-step is saved already, or nothing is to be saved."""
        is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return bool(getattr(trainer, "fast_dev_run", 0)) or not is_fitting or self._saved_at == trainer.global_step

    def _save_best(self, trainer: Trainer, module: LightningModule) -> None:
        before = {**self.state_dict(), "best_k_models": dict(self.best_k_models)}
        try:
            super().on_validation_end(trainer, module)
        except BaseException:
            # Lightning records the score before it writes the file. Without a file it must not be the score to beat.
            super().load_state_dict(before)
            raise

    def _save_last(self, trainer: Trainer) -> None:
        self.last_model_path = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        self._save_checkpoint(trainer, self.last_model_path)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # Overrides Lightning's, see lightning_internals.
        refused = ""
        try:
            super()._save_checkpoint(trainer, filepath)
        except RecipeError as error:
            refused = str(error)
            trainer.strategy.barrier()  # the one in which the other processes wait
        if trainer.is_global_zero and not refused and filepath == self.best_model_path:
            try:
                self._write_teacher(trainer)
            except RecipeError as error:
                refused = str(error)
        # All processes raise, or the others would wait for this one at the next barrier.
        refused = trainer.strategy.broadcast(refused)
        if refused:
            raise UnwritableError(refused)
        self._saved_at = trainer.global_step

    def _write_teacher(self, trainer: Trainer) -> None:
        data = None
        with suppress(RecipeError, ValueError):
            data = _described_data(trainer)
        gtn: Any = trainer.lightning_module
        gtn.save_teacher(Path(trainer.default_root_dir) / TEACHER_FILE, data, self._scored)


def _copied(module: LightningModule) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


def _described_data(trainer: Trainer) -> Any:
    return describe(getattr(trainer, "datamodule", None), rebuilt=False)
