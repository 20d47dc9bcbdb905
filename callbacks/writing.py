"""What a run does if a file cannot be written: the policy of its TeacherCheckpoint, for everything that it writes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from gtn_lightning.files import UnwritableError
from gtn_lightning.lightning import Trainer, rank_zero_warn

LOGGING = ("log_metrics", "log_hyperparams", "after_save_checkpoint", "save", "finalize")
"""The methods of a logger that write."""

_said: WeakKeyDictionary[Trainer, set[str]] = WeakKeyDictionary()
"""What each run has warned of since it was last written."""


def goes_on(trainer: Trainer) -> bool:
    """Return whether the run goes on if a file cannot be written."""
    return any(getattr(callback, "on_write_error", None) == "warn" for callback in trainer.checkpoint_callbacks)


@contextmanager
def unless_unwritable(trainer: Trainer, what: str, loss: str = "") -> Iterator[None]:
    """Warn if the block cannot write and ``TeacherCheckpoint`` has ``on_write_error="warn"``; raise otherwise.

    The block should do nothing but write. No second warning of the same thing follows until the block has succeeded.

    Args:
        trainer: the trainer of the run.
        what: what is written.
        loss: what the warning says; by default that it is not written.

    Raises:
        OSError, UnwritableError: if the block raises it and the run is to stop.
    """
    said = _said.setdefault(trainer, set())
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None or not goes_on(trainer):
            raise
        if what not in said:
            said.add(what)
            rank_zero_warn(f"{loss or f'{what} is not written'}: {' '.join(str(reason).split())}")
    else:
        said.discard(what)


def _reason(error: BaseException | None) -> BaseException | None:
    """Return the error of writing behind an error, or None: loggers raise their own about that of the system."""
    while error is not None and not isinstance(error, OSError | UnwritableError):
        error = error.__cause__ or error.__context__
    return error


def keep_loggers_going(trainer: Trainer) -> None:
    """Have the loggers of a run do as `unless_unwritable` does.

    Lightning calls loggers from many places and has no hook around them, so the methods of these instances are
    replaced.

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
