"""Silencing messages of libraries on which a user of the command line cannot act."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import gtn_lightning
from gtn_lightning import callbacks

LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
)
MESSAGES = (
    "litlogger",
    "litmodels",
    "Seed set to",
    "GPU available: False",
    "TPU available",
    "HPU available",
    "`Trainer.fit` stopped: `max_steps",
    "attempting graceful shutdown",
)
WARNINGS = (
    ".*LeafSpec.*",
    ".*Experiment logs directory.*",
    ".*does not have many workers.*",
    ".*sync_dist=True.*",
    ".*instantiate_classes.*",
    "LightningCLI's args parameter.*",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence messages on which no user can act, and print this package's warnings in one line each."""
    own = tuple(f"{folder}{os.sep}" for package in (gtn_lightning, callbacks) for folder in package.__path__)
    in_full, shown, in_threads = warnings.formatwarning, logging.raiseExceptions, threading.excepthook

    def in_a_thread(arguments: threading.ExceptHookArgs) -> None:
        # TensorBoard writes in one; its logger reports the same error to whoever logs next.
        if not isinstance(arguments.exc_value, OSError):
            in_threads(arguments)

    def in_one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if filename.startswith(own):
            return f"warning: {' '.join(str(message).split())}\n"
        return in_full(message, category, filename, lineno, line)

    def worth_saying(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in MESSAGES)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(worth_saying)
    try:
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            warnings.formatwarning = in_one_line
            # W&B keeps a log of its own, of which every line would be a traceback on a full disk.
            logging.raiseExceptions = False
            threading.excepthook = in_a_thread
            yield
    finally:
        warnings.formatwarning, logging.raiseExceptions, threading.excepthook = in_full, shown, in_threads
        for logger in loggers:
            logger.removeFilter(worth_saying)
