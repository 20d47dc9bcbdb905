"""What Lightning's users set by habit: it works, or is refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, LearningRateMonitor, ModelCheckpoint

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from tests.tiny import make_gtn, make_trainer


def fitted(folder: Path, **options: Any) -> pl.Trainer:
    trainer = make_trainer(folder, **{"max_steps": 2, "val_check_interval": 1} | options)
    trainer.fit(make_gtn(evaluation={"learners": 1}), DigitsData(32))
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {"profiler": "simple"},
        {"overfit_batches": 1},
        {"fast_dev_run": 2},
        {"limit_val_batches": 1},
        {"limit_train_batches": 1},
        {"detect_anomaly": True},
        {"accumulate_grad_batches": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_work(options: dict[str, Any], tmp_path: Path) -> None:
    trainer = fitted(tmp_path, **options)
    assert trainer.global_step == 2
    assert 0 <= float(trainer.callback_metrics["val/accuracy"]) <= 1


def test_a_run_without_validation(tmp_path: Path) -> None:
    trainer = fitted(tmp_path, limit_val_batches=0)
    assert trainer.global_step == 2
    assert "val/accuracy" not in trainer.callback_metrics


def test_lightnings_checkpoints_by_the_tasks_metric(tmp_path: Path) -> None:
    callback = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max")
    fitted(tmp_path, callbacks=[callback], enable_checkpointing=True)
    assert Path(callback.best_model_path).is_file()
    assert callback.best_model_score is not None


def test_the_outer_rate_is_monitored(tmp_path: Path) -> None:
    monitor = LearningRateMonitor()
    fitted(tmp_path, callbacks=[monitor], logger=pl.loggers.CSVLogger(tmp_path))
    assert monitor.lrs


@pytest.mark.parametrize("finder", [BatchSizeFinder, LearningRateFinder])
def test_finders_are_refused(finder: type[pl.Callback], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"trainer.callbacks: {finder.__name__} does not work with a GTN") as caught:
        fitted(tmp_path, callbacks=[finder()])
    assert "\n" not in str(caught.value)


def test_a_negative_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"trainer.gradient_clip_val must be at least 0"):
        fitted(tmp_path, gradient_clip_val=-1.0)
