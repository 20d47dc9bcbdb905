"""Every private name of Lightning that this package's callbacks and loggers use, with the condition for its removal.

``tests/test_lightning_internals.py`` has a test for each: it fails when the name no longer does what is said here, or
when Lightning no longer needs the workaround. Checked with pytorch-lightning 2.6.

`TeacherCheckpoint` also overrides ``ModelCheckpoint._save_checkpoint``, which writes each checkpoint: there a failed
write must be reported to all processes before an older checkpoint is removed, and Lightning has no public hook for it.
"""

from typing import Any

from gtn_lightning.lightning import CSVLogger, Trainer, WandbLogger

BATCHES_THAT_STEPPED = "_batches_that_stepped"
"""Lightning's count of outer steps in a checkpoint's ``epoch_loop.state_dict``.

To be removed when Lightning resumes a run that was interrupted within a step at the beginning of that step.
"""


def checkpoint_state(trainer: Trainer) -> dict[str, Any]:
    """Return what ``trainer.save_checkpoint`` writes.

    ``trainer.save_checkpoint`` waits for all processes, which never arrive after an error on one of them. To be removed
    when it can be called without a barrier: https://github.com/Lightning-AI/pytorch-lightning/issues/20187.
    """
    state: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return state


def wandb_arguments(logger: WandbLogger) -> dict[str, Any]:
    """Return the arguments that a logger passes to ``wandb.init``, to be changed in place.

    The mode depends on the login, which is checked when the run starts and not when the logger is made. To be removed
    when ``WandbLogger`` has a hook there and no longer passes the deprecated ``anonymous``.
    """
    arguments: dict[str, Any] = logger._wandb_init
    return arguments


def has_started(logger: WandbLogger | CSVLogger) -> bool:
    """Return whether a logger has made its experiment; reading ``logger.experiment`` would make it."""
    return logger._experiment is not None


def set_experiment(logger: CSVLogger, experiment: Any) -> None:
    """Give a logger its experiment; Lightning's own writes files that it may leave incomplete."""
    logger._experiment = experiment
