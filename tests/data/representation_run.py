"""A run on a target network's features on several processes, started by test_representation.py.

Each process leaves what it saw in ``rank<N>.pt``.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData, RepresentationData, VICReg
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.tasks import Representation
from gtn_lightning.teachers import FreeTensors
from tests.tiny import BATCH, SHAPE, STEPS, make_gtn, make_trainer

FEATURES = 5


class Noted(VICReg):
    """VICReg whose every training is noted in the process's folder."""

    def train(self, *arguments: Any) -> int:
        with Path("trainings").open("a") as file:
            file.write("trained\n")
        return super().train(*arguments)


def main(folder: Path, devices: int) -> None:
    target = Noted(dimension=FEATURES, width=2, steps=3, batch_size=16, shift=1.0)
    data = RepresentationData(DigitsData(32), target, str(folder / "targets"))
    task = Representation(FEATURES, shape=SHAPE, classes=10)
    gtn = make_gtn(
        teacher=FreeTensors(dict(task.fields), STEPS * BATCH, init="real"),
        curriculum=Full(STEPS, BATCH),
        learners=Fixed(partial(MLP, shape=SHAPE, outputs=FEATURES, hidden=[8])),
        task=task,
    )
    trainer = make_trainer(folder, devices=devices, strategy="ddp", max_steps=3)
    trainer.fit(gtn, data)
    assert data.network is not None
    left = {
        "weights": gtn.state_dict(),
        "network": data.network.state_dict(),
        "targets": data.split("train")[1],
        "counts": data.counts(),
        "logged": float(trainer.callback_metrics["train/target_images"]),
    }
    torch.save(left, folder / f"rank{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()
