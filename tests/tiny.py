"""A GTN that takes milliseconds per meta-step, and a trainer that says nothing, for the tests and their scripts."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.curricula import Full
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.inner_loop import SGD, InnerLoop
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.lightning import pl
from gtn_lightning.meta_training.ahead import Ahead
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Generator, Pixels

SHAPE, STEPS, BATCH, NOISE = (1, 8, 8), 3, 10, 4


def make_gtn(**changes: Any) -> GTN:
    """Free pixels, three steps of ten images, an MLP.

    Changes are GTN's arguments; `inner_loop` and `evaluation` are given as what is changed of them.
    """
    torch.manual_seed(0)
    # The mode is named, so that two runs agree in every bit.
    loop = InnerLoop(**{"steps": STEPS, "mode": "remat"} | changes.pop("inner_loop", {}))
    evaluation = Evaluation(**{"learners": 2, "real_rates": [0.1]} | changes.pop("evaluation", {}))
    arguments: dict[str, Any] = {
        "teacher": Pixels(SHAPE, 10, STEPS * BATCH),
        "curriculum": Full(STEPS, BATCH, 10),
        "learners": Fixed(partial(MLP, shape=SHAPE, outputs=10, hidden=[8], activation="tanh")),
        "inner_optimizer": SGD(lr=0.1, momentum=0.5, learned_per_step=["lr", "momentum"], steps=STEPS),
        "task": Classification(10),
        "inner_loop": loop,
        "evaluation": evaluation,
    }
    return GTN(**arguments | changes)


def with_generator(**options: Any) -> dict[str, Any]:
    """The changes that put the paper's generator, in small, into ``make_gtn``."""
    torch.manual_seed(1)
    return {
        "teacher": Generator(SHAPE, 10, noise=NOISE, hidden=12, channels=(4, 4), **options),
        "curriculum": Full(STEPS, BATCH, 10, noise=NOISE),
    }


class Captures(pl.Callback):
    """Captures meta-steps on a CPU too, where a replay is a call of the captured function."""

    def __init__(self) -> None:
        self.graphs: CudaGraphs | None = None
        self.ahead: Ahead | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.graphs = pl_module._graphs = pl_module._evaluator.graphs = CudaGraphs(pl_module.device)
        pl_module._ahead = self.ahead = Ahead(pl_module.device)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states agree in every bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def make_trainer(folder: Path, **options: Any) -> pl.Trainer:
    """A quiet trainer on one CPU that counts meta-steps, validates when asked to, and saves nothing by itself."""
    defaults: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 2,
        "val_check_interval": 1000,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**defaults | options)
