"""Loggers: W&B offline, switched off and out of reach, and TensorBoard."""

from pathlib import Path
from typing import Any

import pytest
import wandb

from gtn_lightning.loggers import TensorBoardLogger, WandbLogger


@pytest.fixture(autouse=True)
def _nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # W&B reads the environment once in a process
    yield
    wandb.finish()
    wandb.teardown()


def written(folder: Path) -> bytes:
    """Return what the one offline run in a folder recorded; names stand in it as they are."""
    wandb.teardown()  # waits until everything is on the disk
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return path.read_bytes()


def test_offline_unless_logged_in(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = WandbLogger(save_dir=str(tmp_path / "run"))
    logger.log_hyperparams({"model": {"inner_steps": 3}})
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    assert logger.experiment.offline
    logger.experiment.finish()
    assert b"inner_steps" in written(tmp_path / "run")
    assert b"val/accuracy" in written(tmp_path / "run")
    assert "WARNING" not in capfd.readouterr().err


def test_switched_off_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(save_dir=str(tmp_path))
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    assert logger.experiment.disabled
    assert not list(tmp_path.rglob("*run-*"))


def test_offline_by_the_environment_though_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert WandbLogger(save_dir=str(tmp_path)).experiment.offline


@pytest.mark.slow
def test_a_server_out_of_reach_makes_the_run_an_offline_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = WandbLogger(save_dir=str(tmp_path / "run"), init_timeout=2)
    with pytest.warns(UserWarning, match="cannot be reached.*wandb sync"):
        run = logger.experiment
    assert run.offline
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    run.finish()
    assert b"val/accuracy" in written(tmp_path / "run")


def test_tensorboard_writes_into_the_run_folder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(save_dir=str(tmp_path))
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))
