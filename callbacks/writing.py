"""Handling of write errors for all files and logs of a run, by the policy ``TeacherCheckpoint(on_write_error=...)``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from gtn_lightning.files import UnwritableError
from gtn_lightning.lightning import Trainer, rank_zero_warn

LOGGING = ("log_metrics", "log_hyperparams", "after_save_checkpoint", "save", "finalize")
"""The methods of a logger that write."""

_warned: WeakKeyDictionary[Trainer, set[str]] = WeakKeyDictionary()
"""The files and logs of each run with a warning since the last successful write."""


def goes_on(trainer: Trainer) -> bool:
    """Return whether the run continues after a write error."""
    return any(getattr(callback, "on_write_error", None) == "warn" for callback in trainer.checkpoint_callbacks)


@contextmanager
def unless_unwritable(trainer: Trainer, what: str, loss: str = "") -> Iterator[None]:
    """Turn write errors of a block into a warning if ``TeacherCheckpoint`` has ``on_write_error="warn"``.

    The block should only write. The warning is not repeated until the same file or log has been written.

    Args:
        trainer: the trainer of the run.
        what: name of the file or log.
        loss: beginning of the warning; by default that ``what`` is not written.

    Raises:
        OSError, UnwritableError: if the block raises it and the policy is to stop.
    """
    warned = _warned.setdefault(trainer, set())
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None or not goes_on(trainer):
            raise
        if what not in warned:
            warned.add(what)
            rank_zero_warn(f"{loss or f'{what} is not written'}: {' '.join(str(reason).split())}")
    else:
        warned.discard(what)


def _reason(error: BaseException | None) -> BaseException | None:
    """Return the write error that caused an error, or None; loggers wrap the system's errors in their own."""
    while error is not None and not isinstance(error, OSError | UnwritableError):
        error = error.__cause__ or error.__context__
    return error


def keep_loggers_going(trainer: Trainer) -> None:
    """Apply `unless_unwritable` to the loggers of a run.

    The methods of the logger instances are replaced, since Lightning calls loggers in many places and has no hook
    around them.

    Args:
        trainer: the trainer of the run.
    """
    for logger in trainer.loggers:
        for name in LOGGING:
            if name not in vars(logger):
                setattr(logger, name, _lenient(getattr(logger, name), trainer, f"the log of {type(logger).__name__}"))


def _lenient(method: Callable[..., Any], trainer: Trainer, what: str) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        with unless_unwritable(trainer, what):
            return method(*arguments, **options)

    return call
