"""Lightning's private names still do what is said of them, and Lightning still needs the workarounds."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.strategies import SingleDeviceStrategy

from gtn_lightning import lightning_internals


class Counting(SingleDeviceStrategy):
    """Counts the barriers at which processes wait for each other."""

    barriers = 0

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        self.barriers += 1


class Scored(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", torch.tensor(float(self.global_step)))


def trained(folder: Path, *callbacks: pl.Callback) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder,
        strategy=Counting(torch.device("cpu")),
        max_steps=2,
        val_check_interval=1,
        limit_val_batches=1,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    trainer.fit(Scored())
    return trainer


def test_a_saved_checkpoint_waits_for_all_processes(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    assert isinstance(trainer.strategy, Counting)
    before = trainer.strategy.barriers
    state = lightning_internals.checkpoint_state(trainer)
    assert trainer.strategy.barriers == before
    trainer.save_checkpoint(tmp_path / "written.ckpt", weights_only=False)
    assert trainer.strategy.barriers > before, "checkpoint_state is no longer needed"
    written = torch.load(tmp_path / "written.ckpt", weights_only=True)
    assert written.keys() == state.keys()
    assert written["global_step"] == state["global_step"] == 2
    assert all(torch.equal(tensor, state["state_dict"][name]) for name, tensor in written["state_dict"].items())


def test_outer_steps_are_counted_in_a_checkpoint(tmp_path: Path) -> None:
    loops = lightning_internals.checkpoint_state(trained(tmp_path))["loops"]
    assert loops["fit_loop"]["epoch_loop.state_dict"] == {lightning_internals.BATCHES_THAT_STEPPED: 2}


def test_an_older_checkpoint_is_removed_after_the_overridden_method(tmp_path: Path) -> None:
    class Fails(ModelCheckpoint):
        saved: tuple[str, ...] = ()

        def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
            if self.saved:
                raise OSError("the disk is full")
            super()._save_checkpoint(trainer, filepath)
            self.saved += (Path(filepath).name,)

    checkpoint = Fails(tmp_path, monitor="score", mode="max", save_on_train_epoch_end=False)
    with pytest.raises(OSError, match="the disk is full"):
        trained(tmp_path, checkpoint)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == list(checkpoint.saved)


def test_the_arguments_of_a_wandb_run_can_be_changed_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = WandbLogger(project="test", save_dir=tmp_path)
    assert not lightning_internals.has_started(logger)
    assert "anonymous" in lightning_internals.wandb_arguments(logger), "Lightning no longer passes it"
    del lightning_internals.wandb_arguments(logger)["anonymous"]
    lightning_internals.wandb_arguments(logger)["mode"] = "offline"
    run = logger.experiment
    assert run.settings.mode == "offline"
    assert lightning_internals.has_started(logger)
    run.finish()


def test_a_logger_can_be_given_its_experiment(tmp_path: Path) -> None:
    logger, experiment = CSVLogger(tmp_path), object()
    assert not lightning_internals.has_started(logger)
    lightning_internals.set_experiment(logger, experiment)
    assert lightning_internals.has_started(logger)
    assert logger.experiment is experiment


def test_lightnings_table_of_metrics_is_lost_if_it_exists(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        logger = CSVLogger(tmp_path, name="", version="")
        logger.log_metrics({"loss": value}, 0)
        logger.save()
    assert "1.0" not in (tmp_path / "metrics.csv").read_text(), "CSVLogger of this package is no longer needed"
