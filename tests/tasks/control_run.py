"""Agents on several processes, started by test_control.py. Each process leaves what it saw in ``rank<N>.pt``."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from gtn_lightning.callbacks import EpisodeAnimation, PolePicture
from gtn_lightning.data import EnvironmentData
from gtn_lightning.meta_training import EvolutionStrategies
from tests.tasks.test_control import make_data, make_gtn
from tests.tiny import make_trainer


class Seeds(pl.Callback):
    """Keeps the seeds of the episodes."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self.seen.append(batch.seed)


def main(folder: Path, devices: int) -> None:
    left: dict[str, Any] = {}
    for name, gradient in (("exact", None), ("evolution", EvolutionStrategies(pairs=2))):
        seeds, data, gtn = Seeds(), make_data(), make_gtn(outer_gradient=gradient)
        callbacks = [seeds, PolePicture(), EpisodeAnimation()]
        trainer = make_trainer(folder, devices=devices, strategy="ddp", max_steps=3, callbacks=callbacks)
        trainer.fit(gtn, data)
        assert isinstance(trainer.datamodule, EnvironmentData)  # type: ignore[attr-defined]
        left[name] = {
            "weights": {key: tensor.clone() for key, tensor in gtn.state_dict().items()},
            "seeds": seeds.seen,
            "own steps": data.counts()["env_steps"],
            "steps": float(trainer.callback_metrics["train/env_steps"]),
            "saved steps": data.state_dict()["env_steps"],
            "validated": trainer.validate(gtn, data, verbose=False)[0],
        }
    torch.save(left, folder / f"rank{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()
