"""A run on several processes, started by test_module.py. Each process leaves what it saw in ``rank<N>.pt``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from gtn_lightning import GTN
from gtn_lightning.callbacks import SyntheticData
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from tests.tasks import test_autoencoding
from tests.tiny import SHAPE, Captures, make_gtn, make_trainer, with_generator

EVALUATION = {"learners": 3, "real_rates": [0.03, 0.3]}


class FirstWeights(pl.Callback):
    """Keeps some initial weight of every learner that meta-training samples."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        if trainer.global_step:
            return
        sample = pl_module.learners.sample

        def recorded(generator: torch.Generator) -> Any:
            learner = sample(generator)
            if pl_module.training:
                self.seen.append(float(next(learner.parameters()).detach().flatten()[0]))
            return learner

        pl_module.learners.sample = recorded


def classification() -> GTN:
    return make_gtn(**with_generator(), evaluation=EVALUATION)


def autoencoding() -> GTN:
    return make_gtn(**test_autoencoding.parts(classes=10), evaluation=EVALUATION)


def main(folder: Path, devices: int, make: Callable[[], GTN]) -> None:
    learners = FirstWeights()
    trainer = make_trainer(folder, devices=devices, strategy="ddp", max_steps=3, callbacks=[learners, SyntheticData()])
    gtn = make()
    left: dict[str, Any] = {}
    left["validated"] = trainer.validate(gtn, DigitsData(32), verbose=False)[0]
    left["curve"] = gtn.result
    left["tested"] = trainer.test(gtn, DigitsData(32), verbose=False)[0]
    trainer.predict(gtn, return_predictions=False)
    trainer.fit(gtn, DigitsData(32))
    left["weights"] = {name: tensor.clone() for name, tensor in gtn.state_dict().items()}
    left["learners"] = learners.seen
    for captures in ([], [Captures()]):
        again = make()
        make_trainer(folder, devices=devices, strategy="ddp", max_steps=5, callbacks=captures).fit(
            again, DigitsData(32)
        )
        left["captured" if captures else "usual"] = {name: t.clone() for name, t in again.state_dict().items()}
        left["replays"] = [each.graphs and each.graphs.replays for each in captures]
    shared_out = DataLoader(TensorDataset(torch.randn(20, *SHAPE), torch.arange(20) % 10), batch_size=10)
    try:
        trainer.validate(gtn, shared_out)
    except RecipeError as error:
        left["refused"] = str(error)
    torch.save(left, folder / f"rank{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()  # its threads, left running, may abort a process at its exit
