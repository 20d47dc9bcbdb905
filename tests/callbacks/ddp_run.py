"""A run on two processes, started by test_ddp.py."""

import sys
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from gtn_lightning.callbacks import (
    LearningCurve,
    MetaProgressBar,
    RunSummary,
    SampleGrid,
    SyntheticData,
    TeacherCheckpoint,
)
from gtn_lightning.data import DigitsData
from gtn_lightning.files import UnwritableError
from tests.callbacks.conftest import STEPS, build_gtn, build_trainer


class RankOneFails(pl.Callback):
    """One process dies while the other waits for it."""

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        if trainer.global_step == 4 and trainer.global_rank == 1:
            raise RuntimeError("rank one fails")


def write_in_vain(folder: Path, blocked: str) -> None:
    """A run that cannot write one of its files; every process says with which error it ends."""
    (folder / blocked / "in the way").mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(folder, [TeacherCheckpoint()], devices=2, strategy="ddp", max_steps=3)
    try:
        trainer.fit(build_gtn(), DigitsData(batch_size=64))
    except UnwritableError as error:
        print(f"rank {trainer.global_rank}: {error}", file=sys.stderr)


def main(folder: Path) -> None:
    ddp = {"devices": 2, "strategy": "ddp", "max_steps": 3}
    callbacks = [
        SampleGrid(),
        LearningCurve(),
        RunSummary(),
        SyntheticData(),
        MetaProgressBar(),
        TeacherCheckpoint(),
    ]
    logger = WandbLogger(save_dir=folder, project="test", offline=True)
    trainer = build_trainer(folder, callbacks, logger=logger, **ddp)
    gtn = build_gtn()
    trainer.fit(gtn, DigitsData(batch_size=64))
    trainer.predict(gtn, return_predictions=False)
    print(f"{STEPS} steps, rank {trainer.global_rank} done", file=sys.stderr)
    failing = build_trainer(folder, [TeacherCheckpoint(), RankOneFails()], **ddp | {"max_steps": 6})
    failing.fit(gtn, DigitsData(batch_size=64), ckpt_path=folder / "checkpoints/last.ckpt")
