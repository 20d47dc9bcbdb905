"""What Lightning says to everybody and no user of the command line can act on is not shown."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Silence what Lightning says to everybody and nobody here can act on."""

    def worth_saying(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in MESSAGES)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(worth_saying)
    try:
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(worth_saying)
