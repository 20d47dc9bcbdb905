"""Why a run has ended, in which words the user is told, and with which exit code."""

import re
from dataclasses import dataclass
from typing import Any

from gtn_lightning.cli.blame import (
    component_of,
    is_lightnings,
    is_of_callback,
    is_out_of_memory,
    is_own_code,
    is_restoring,
    wanted_memory,
)
from gtn_lightning.cli.runs import refused_checkpoint
from gtn_lightning.cli.signals import InterruptedBySignal
from gtn_lightning.errors import RecipeError, first_line, one_line
from gtn_lightning.files import UnwritableError
from gtn_lightning.inner_loop import InnerLoopError
from gtn_lightning.lightning import MisconfigurationException
from gtn_lightning.meta_training.checkpoints import CheckpointError

OUT_OF_MEMORY = (
    "out of memory; less is needed with fewer model.inner_loop.steps, with model.inner_loop.segment, with "
    "model.inner_loop.mode=remat, or with a smaller model.population or batch_size"
)

USER_ERRORS = (RecipeError, InnerLoopError, MisconfigurationException, OSError)
"""What a user can cause at any time. Anything else in the middle of a run is a bug and keeps its traceback."""

LOST_PROCESS = re.compile(
    r"Connection (closed|reset) by (remote )?peer|gloo|NCCL|ProcessGroup|failed to recv|Broken pipe", re.IGNORECASE
)
"""What torch's process groups say when another process has ended; not all of these errors have a class of their own."""


class EndedRunError(Exception):
    """A run that ended before its time.

    Args:
        what: what happened, for the user.
        checkpoint: the checkpoint to go on from, or empty.
        code: the exit code.
    """

    def __init__(self, what: str, checkpoint: str, code: int) -> None:
        super().__init__(what)
        self.what = what
        self.checkpoint = checkpoint
        self.code = code


@dataclass(frozen=True)
class FailedRun:
    """What is known of a run that an error or a signal has ended."""

    command: str
    values: dict[str, Any]
    """The recipe as it was parsed."""
    kept: str
    """The checkpoint that the run has left, or empty."""
    took_no_step: bool
    """Whether it has not trained on a single batch."""
    processes: int
    signal: int | None
    """The signal that has ended it."""

    def left_nothing(self, error: BaseException) -> bool:
        """Return whether there is nothing in the run's folder that is of use."""
        return self._checkpoint_refused(error) is not None or (not self.kept and self.took_no_step)

    def ending(self, error: BaseException) -> BaseException | None:
        """Return what to raise in place of an error; None for a bug, which keeps its traceback."""
        if self.signal is not None:
            # Whatever error that has become; other processes may also have ended first.
            interruption = InterruptedBySignal(self.signal)
            return EndedRunError(interruption.ending, self.kept, interruption.code)
        # Lightning turns a Ctrl-C that is raised by something else into exit(1).
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            return EndedRunError("interrupted", self.kept, 130)
        if not isinstance(error, Exception):
            return None
        if (refusal := self._checkpoint_refused(error)) is not None:
            return refusal
        # Learners are made when the data is at hand; Lightning looks at some options no earlier than that.
        early = self.took_no_step and not isinstance(error, USER_ERRORS)
        if early and (refusal := component_refused(error, self.values)) is not None:
            return refusal
        if isinstance(error, ValueError) and not isinstance(error, RecipeError) and is_lightnings(error):
            return RecipeError(f"trainer: {one_line(error).lstrip('` ')}")
        if isinstance(error, RuntimeError) and is_of_callback(error):
            return EndedRunError(f"error: trainer.callbacks: {one_line(error)}", self.kept, 2)
        if self._has_lost_process(error):
            what = f"error: another process of this run has ended, its own output says why ({first_line(error)})"
            return EndedRunError(what, self.kept, 1)
        if is_out_of_memory(error):
            return EndedRunError(f"error: {OUT_OF_MEMORY} ({wanted_memory(error)})", self.kept, 1)
        if isinstance(error, OSError | UnwritableError) and self.command == "fit" and not self.took_no_step:
            return EndedRunError(f"error: {one_line(error)}", self.kept, 2)
        return None

    def _has_lost_process(self, error: BaseException) -> bool:
        return self.processes > 1 and isinstance(error, RuntimeError) and LOST_PROCESS.search(str(error)) is not None

    def _checkpoint_refused(self, error: BaseException) -> RecipeError | None:
        """Return what to say if the checkpoint is to blame for an error; None if it is not."""
        path = self.values.get("ckpt_path")
        if path is None or self.signal is not None or not isinstance(error, Exception):
            return None
        if self.processes > 1 and LOST_PROCESS.search(str(error)):
            return None
        # What no check of the checkpoint has found shows while it is restored, or in the first meta-step.
        early = is_restoring(error) or (self.command == "fit" and self.took_no_step)
        return checkpoint_refused(error, path) if early or isinstance(error, CheckpointError) else None


def checkpoint_refused(error: Exception, path: str) -> RecipeError | None:
    """Return what to say of an error that a checkpoint has caused; None if it has a message of its own.

    Args:
        error: what was raised.
        path: the checkpoint.
    """
    if isinstance(error, CheckpointError):
        return refused_checkpoint(path, one_line(error))
    if isinstance(error, USER_ERRORS) or is_out_of_memory(error) or is_own_code(error):
        return None
    return refused_checkpoint(path, f"{type(error).__name__}: {first_line(error)}")


def component_refused(error: Exception, values: dict[str, Any]) -> RecipeError | None:
    """Return what to say of an error with which a component of the recipe was made; None if it was not.

    Args:
        error: what was raised.
        values: the recipe as it was parsed.
    """
    key = None if is_own_code(error) else component_of(error, values)
    if key is None:
        return None
    if is_out_of_memory(error):
        return RecipeError(f"{key}: there is not so much memory ({wanted_memory(error)}): lower it")
    kind = "" if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: "
    return RecipeError(f"{key}: {kind}{first_line(error)}; correct the value")
