"""A callback that lets two runs take their meta-steps in turn, so that both meet the same load of the machine.

It imports nothing of this package: the other run may be of another checkout.
"""

import os
import time
from typing import Any

import pytorch_lightning as pl

TURN, TIMES = "GTN_TURN", "GTN_TIMES"
"""Environment variables: the pipe from which a run reads its turns, and the one to which it writes its times."""


class Turns(pl.Callback):
    """Waits for a line before each meta-step, and writes the seconds of this process's CPUs that it took."""

    def __init__(self) -> None:
        self._turns = os.fdopen(int(os.environ[TURN]), "r", encoding="utf-8")
        self._times = os.fdopen(int(os.environ[TIMES]), "w", encoding="utf-8")
        self._began = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Wait for a turn; stop the run if there are no more."""
        if not self._turns.readline():
            trainer.should_stop = True
        self._began = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Write the time."""
        print(time.process_time() - self._began, file=self._times, flush=True)
