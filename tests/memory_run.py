"""Meta-steps on digits with sampled architectures, in a process of its own, started by test_memory.py.

Prints how many bytes the peak of the process's memory grew by after the first third.
"""

import resource
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from gtn_lightning.data import DigitsData
from gtn_lightning.learners import MLP, Mixture
from tests.tiny import SHAPE, make_gtn, make_trainer


class Peaks(pl.Callback):
    """Keeps the peak of memory after some meta-steps."""

    def __init__(self) -> None:
        self.peaks: dict[int, int] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        unit = 1 if sys.platform == "darwin" else 1024
        self.peaks[trainer.global_step] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(mode: str, count: int = 240) -> None:
    learners = Mixture(
        {
            "one layer": partial(MLP, shape=SHAPE, outputs=10, hidden=[128]),
            "two layers": partial(MLP, shape=SHAPE, outputs=10, hidden=[128, 64]),
        }
    )
    peaks = Peaks()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), max_steps=count, val_check_interval=count // 6, callbacks=[peaks])
        trainer.fit(make_gtn(learners=learners, inner_loop={"mode": mode}), DigitsData(32))
    print("grew by", peaks.peaks[count] - peaks.peaks[count // 3])
