"""A tiny GTN, and one finished run of it that many tests look at."""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from gtn_lightning import GTN
from gtn_lightning.callbacks import (
    LearningCurve,
    MetaProgressBar,
    RunSummary,
    SampleGrid,
    SyntheticData,
    TeacherCheckpoint,
)
from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData
from gtn_lightning.evaluation import Evaluation, EvaluationResult
from gtn_lightning.inner_loop import SGD, InnerLoop
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Pixels

STEPS, BATCH = 4, 20

MakeGTN = Callable[..., GTN]
MakeTrainer = Callable[..., pl.Trainer]


def build_gtn(cls: type[GTN] = GTN, **options: Any) -> GTN:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "teacher": Pixels((1, 8, 8), 10, STEPS * BATCH),
        "curriculum": Full(STEPS, BATCH, 10),
        "learners": Fixed(partial(MLP, (1, 8, 8), 10, hidden=[16])),
        "inner_optimizer": SGD(lr=0.1, momentum=0.5, learned_per_step=["lr", "momentum"], steps=STEPS),
        "task": Classification(10),
        "inner_loop": InnerLoop(**{"steps": STEPS} | options.pop("inner_loop", {})),
        "evaluation": Evaluation(**{"learners": 3, "real_rates": [0.1, 0.3]} | options.pop("evaluation", {})),
    }
    return cls(**arguments | options)


def build_trainer(folder: Path, callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 6,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, TeacherCheckpoint) for callback in callbacks),
        "enable_progress_bar": any(isinstance(callback, MetaProgressBar) for callback in callbacks),
    }
    return pl.Trainer(callbacks=callbacks, **defaults | options)


@pytest.fixture
def make_gtn() -> MakeGTN:
    return build_gtn


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    return partial(build_trainer, tmp_path)


@dataclass
class Run:
    """What a run of fit, test and predict left."""

    folder: Path
    gtn: GTN
    curve: EvaluationResult
    test_curve: EvaluationResult
    printed: str
    test_printed: str
    wandb_folder: Path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All callbacks and loggers at work, the sanity check included."""
    folder = tmp_path_factory.mktemp("run")
    gtn = build_gtn()
    wandb = WandbLogger(save_dir=folder, project="test", offline=True)
    trainer = build_trainer(
        folder,
        [
            SampleGrid(),
            LearningCurve(),
            RunSummary(),
            SyntheticData(),
            MetaProgressBar(),
            TeacherCheckpoint(),
        ],
        logger=[
            wandb,
            TensorBoardLogger(folder, name="", version="tensorboard"),
            CSVLogger(folder, name="", version=""),
        ],
        num_sanity_val_steps=1,
    )
    data = DigitsData(batch_size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        patch.setenv("COLUMNS", "80")
        printed, test_printed = io.StringIO(), io.StringIO()
        with redirect_stdout(printed):
            trainer.fit(gtn, data)
        assert gtn.result is not None
        curve = gtn.result
        with redirect_stdout(test_printed):
            trainer.test(gtn, data)
        trainer.predict(gtn, return_predictions=False)
        wandb_folder = Path(wandb.experiment.dir).parent
        wandb.experiment.finish()
        yield Run(folder, gtn, curve, gtn.result, printed.getvalue(), test_printed.getvalue(), wandb_folder)
