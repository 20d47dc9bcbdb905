"""Checkpoints to resume from, and the best teacher to take away."""

import io
import os
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from gtn_lightning.callbacks.resumption import begins_with_validation, settle_counts
from gtn_lightning.callbacks.writing import keep_loggers_going, unless_unwritable
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import UnwritableError, whole_file
from gtn_lightning.meta_training.checkpoints import (
    PATHS,
    CheckpointError,
    misfit_of_files,
)
from gtn_lightning.teacher_file import record_meta_training

TEACHER_FILE = "teacher.safetensors"


class TeacherCheckpoint(ModelCheckpoint):
    """Keeps the best and the last state of meta-training, and the best teacher as a file of its own.

    After every validation ``last.ckpt`` is written and, where the validation was the best so far,
    ``best-<meta-step>.ckpt`` and ``<run folder>/teacher.safetensors``. The checkpoints are Lightning's, to
    resume from; the teacher file loads without pickle. ``last.ckpt`` is written too when meta-training ends,
    is interrupted or fails, so that no meta-step is lost. Resuming keeps the best score so far, also where
    the run folder has been renamed.

    Three habits of ``ModelCheckpoint`` are different here. It writes ``last.ckpt`` only together with a best
    one. It writes through the system's folder for temporary files: where that is another file system, the
    move at the end is a copy that a full disk cuts short, and that a read-only folder refuses without a word.
    And its checkpoint on an exception bears the name of a best one, and waits for all ranks, though the
    others may never come.

    A run that was cut in the middle of a meta-step or of a validation is resumed with that, from its beginning.

    Callbacks that average weights put theirs in place for a validation and take them away after it. The teacher file
    holds what was scored, and a checkpoint that is written in between what meta-training goes on from.

    Args:
        dirpath: folder of the checkpoints; ``<run folder>/checkpoints`` by default.
        filename: name of the best checkpoints, a template of ``step``, ``epoch`` and logged names.
        monitor: the logged name that decides which is best.
        mode: ``max`` if more of it is better, ``min`` if less is.
        save_top_k: how many of the best checkpoints are kept; -1 keeps one per validation.
        on_write_error: what happens if a file of the run cannot be written, for instance on a full disk: ``raise`` ends
            the run with an error, ``warn`` warns and tries again next time. It holds for what this package's callbacks
            and the loggers write as well. Earlier files stay as they were.

    Raises:
        RecipeError: if ``save_top_k`` is 0, with which there would be no best teacher.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best-{step}",
        monitor: str = "val/accuracy",
        mode: str = "max",
        save_top_k: int = 1,
        on_write_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        if save_top_k == 0:
            raise RecipeError(
                "TeacherCheckpoint.save_top_k is 0, which keeps no teacher; give 1 or more, or -1 for all"
            )
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=True,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            # A second run in a folder replaces last.ckpt; nobody would look for last-v1.ckpt.
            enable_version_counter=False,
        )
        self.on_write_error = on_write_error
        self._training_began = False
        self._stepping_in = -1
        self._validating = False
        self._validates_at: int | None = None
        self._began_at = 0
        self._trained: dict[str, Tensor] | None = None
        self._scored: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the run folder for the checkpoints unless told otherwise.

        Raises:
            RecipeError: if a part cannot be described, so that there could be no teacher file.
        """
        if stage == "fit":
            gtn: Any = pl_module
            gtn.description()  # now, and not after the meta-steps up to the first save
            try:
                _described_data(trainer)
            except (RecipeError, ValueError) as error:  # a data module of the user's own need not be describable
                rank_zero_warn(f"the teacher file will not name its data, to use it again give --data ({error})")
        if self.on_write_error == "warn":
            keep_loggers_going(trainer)
        if self.dirpath is None:
            self.dirpath = os.path.join(trainer.default_root_dir, "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the last validation of a run repeated that was cut in it: Lightning would find nothing left to do."""
        if self._validates_at is not None and 0 <= trainer.max_steps <= self._validates_at:
            trainer.fit_loop.epoch_loop.max_steps = self._validates_at + 1
        else:
            self._validates_at = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to keep checkpoints."""
        super().on_train_start(trainer, pl_module)
        self._training_began = True
        self._stepping_in, self._validating = -1, False
        self._began_at = trainer.global_step
        self._trained = self._scored = None
        teacher = Path(trainer.default_root_dir) / TEACHER_FILE
        if trainer.ckpt_path is None or not trainer.is_global_zero or teacher.exists():
            return
        # In a new run folder, the best score so far may never be beaten: its teacher comes along.
        brought = Path(trainer.ckpt_path).parent.parent / TEACHER_FILE
        if brought.exists():
            with unless_unwritable(trainer, f"{TEACHER_FILE} of the run that goes on"), whole_file(teacher) as part:
                part.write_bytes(brought.read_bytes())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note in which batch the weights begin to change."""
        self._stepping_in = trainer.fit_loop.epoch_loop.total_batch_idx

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have the run end with a validation, also if its length is no multiple of the interval between them."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # the last batch in any case; Lightning then validates

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what meta-training goes on from: other callbacks may put averaged weights in its place."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validating = True
            self._trained = _copied(pl_module)
            if self._validates_at is not None:
                trainer.fit_loop.epoch_loop.max_steps = self._validates_at
                self._validates_at = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what is scored, for the teacher file."""
        if self._trained is not None and self._scored is None:
            self._scored = _copied(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best, if this is it, and the last."""
        self._trained = None
        self._validating = False
        try:
            if self._should_skip_saving_checkpoint(trainer):
                return
            candidates = self._monitor_candidates(trainer)
            loss = f"meta-step {trainer.global_step} is not saved"
            with unless_unwritable(trainer, "the best checkpoint", loss):
                self._save_topk_checkpoint(trainer, candidates)
            with unless_unwritable(trainer, "the last checkpoint", loss):
                self._save_last_checkpoint(trainer, candidates)
        except BaseException:
            self._validating = True  # what came out of it is not kept
            raise
        finally:
            self._scored = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what meta-training goes on from, which averaged weights may replace when it ends."""
        super().on_train_epoch_end(trainer, pl_module)
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._trained = _copied(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Meta-training goes on."""
        self._trained = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last, if meta-steps followed the last validation, and note in the teacher file what it all cost."""
        if not self._should_skip_saving_checkpoint(trainer):
            loss = f"meta-step {trainer.global_step} is not saved"
            with unless_unwritable(trainer, "the last checkpoint at the end", loss):
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        teacher = Path(trainer.default_root_dir) / TEACHER_FILE
        if trainer.is_global_zero and teacher.exists():
            gtn: Any = pl_module
            try:
                record_meta_training(teacher, gtn.meta_training())
            except RecipeError as error:
                rank_zero_warn(f"{teacher} keeps the cost up to its own meta-step: {error}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last, whatever happened."""
        if self._should_skip_saving_checkpoint(trainer) or not trainer.is_global_zero:
            return
        if not self._training_began:  # a resumed state may be restored by half, and no meta-step is lost
            return
        loop = trainer.fit_loop.epoch_loop
        counts: Any = loop.batch_progress.current
        if self._stepping_in == loop.total_batch_idx and counts.processed < counts.ready:
            rank_zero_warn(f"meta-step {trainer.global_step + 1} was cut while the outer optimizer was at work")
            return
        if trainer.global_step == self._began_at and isinstance(exception, Exception):
            return  # what the first meta-step fails with may be in the checkpoint that is gone on from
        self.last_model_path = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        try:
            # Without a barrier: other ranks may be gone, or wait for this one elsewhere.
            self._write(self.last_model_path, self._state(trainer))
        except (RecipeError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or "out of memory"
            rank_zero_warn(f"meta-step {trainer.global_step} is lost: {reason}")
        else:
            rank_zero_info(f"Saved meta-step {trainer.global_step} to {self.last_model_path}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """See that a run is resumed with all that followed the weights that are kept."""
        settle_counts(checkpoint["loops"], trainer.accumulate_grad_batches, self._validating)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whether the run goes on with a validation."""
        if trainer.state.fn == TrainerFn.FITTING and begins_with_validation(checkpoint.get("loops") or {}):
            self._validates_at = checkpoint["global_step"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score and the files of the run that is resumed, wherever its folder is now.

        Lightning forgets the score if the folder has another name than before, and the next validation,
        however bad, would then pass for the best.

        Raises:
            CheckpointError: if it is not what `state_dict` returns.
        """
        if fault := misfit_of_files(state_dict, "the state of TeacherCheckpoint"):
            raise CheckpointError(fault)
        assert self.dirpath is not None
        folder = Path(self.dirpath)

        def here(path: str) -> str:
            # Lightning removes the file that a better one replaces, wherever it is said to be.
            return str(folder / Path(path).name) if path else ""

        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                **{name: here(state_dict[name]) for name in PATHS},
                "best_k_models": {here(path): score for path, score in state_dict["best_k_models"].items()},
            }
        )

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        before = {**self.state_dict(), "best_k_models": dict(self.best_k_models)}
        try:
            super()._update_best_and_save(current, trainer, monitor_candidates)
        except BaseException:
            # The score was noted before the file was written: without a file it must not be the one to beat.
            super().load_state_dict(before)
            raise

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        state = self._state(trainer)
        refused = ""
        if trainer.is_global_zero:
            try:
                self._write(filepath, state)
                if filepath == self.best_model_path:
                    self._write_teacher(trainer)
            except RecipeError as error:
                refused = str(error)
        # All processes learn of it, or those that did not write would wait for the one that gave up.
        refused = trainer.strategy.broadcast(refused)
        if refused:
            raise UnwritableError(refused)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(weakref.proxy(self))

    def _state(self, trainer: Trainer) -> dict[str, Any]:
        state: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        if self._trained is None:
            return state
        held = trainer.lightning_module.state_dict()
        if all(torch.equal(tensor.cpu(), self._trained[name]) for name, tensor in held.items()):
            return state
        # Averaged weights stand where the trained ones were. Lightning's callbacks name both in a checkpoint, and take
        # the module's for the trained ones.
        if "current_model_state" in state:
            state |= {"current_model_state": self._trained, "state_dict": held}
        else:
            state["state_dict"] = self._trained
        return state

    def _write(self, filepath: str, state: dict[str, Any]) -> None:
        # In memory first: torch turns a full disk into an error of its own that names no cause.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with whole_file(Path(filepath)) as part:
            part.write_bytes(buffer.getbuffer())

    def _write_teacher(self, trainer: Trainer) -> None:
        data = None
        with suppress(RecipeError, ValueError):
            data = _described_data(trainer)
        gtn: Any = trainer.lightning_module
        gtn.save_teacher(Path(trainer.default_root_dir) / TEACHER_FILE, data, self._scored)


def _copied(module: LightningModule) -> dict[str, Tensor]:
    """Return a module's state as it is now."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


def _described_data(trainer: Trainer) -> Any:
    return describe(getattr(trainer, "datamodule", None), rebuilt=False)
