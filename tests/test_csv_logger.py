"""The table of metrics: whole, whatever comes between."""

import csv
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from gtn_lightning.files import UnwritableError
from gtn_lightning.loggers import CSVLogger


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def csv_logger(folder: Path) -> CSVLogger:
    return CSVLogger(str(folder), name="", version="")


def test_metrics_that_come_later_get_columns(tmp_path: Path) -> None:
    logger = csv_logger(tmp_path)
    for step in range(3):
        logger.log_metrics({"loss": step / 2} | ({"accuracy": torch.tensor(0.5)} if step == 1 else {}), step)
        logger.save()
    assert rows(tmp_path / "metrics.csv") == [
        {"accuracy": "", "loss": "0.0", "step": "0"},
        {"accuracy": "0.5", "loss": "0.5", "step": "1"},
        {"accuracy": "", "loss": "1.0", "step": "2"},
    ]


def test_a_run_that_goes_on_in_its_folder_keeps_the_rows(tmp_path: Path) -> None:
    first = csv_logger(tmp_path)
    first.log_metrics({"loss": 1.0}, 0)
    first.save()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.")  # a row that a kill has cut short
    second = csv_logger(tmp_path)
    second.log_metrics({"accuracy": 0.5}, 1)
    second.save()
    assert rows(tmp_path / "metrics.csv") == [
        {"accuracy": "", "loss": "1.0", "step": "0"},
        {"accuracy": "0.5", "loss": "", "step": "1"},
    ]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Within the block, no file can grow beyond a size. No longer than that: what pytest prints may go to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["loss", "accuracy"], ids=["the same columns", "another column"])
def test_rows_that_cannot_be_written_wait(name: str, tmp_path: Path) -> None:
    logger, path = csv_logger(tmp_path), tmp_path / "metrics.csv"
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    before = path.read_bytes()
    logger.log_metrics({name: 0.123456789}, 1)
    for _ in range(2):
        with full_disk(len(before) + 4), pytest.raises((OSError, UnwritableError)):
            logger.save()
        assert path.read_bytes() == before
    logger.save()
    assert [row[name] for row in rows(path)][-1] == "0.123456789"
    assert len(rows(path)) == 2


def test_hyperparameters_are_whole_or_as_before(tmp_path: Path) -> None:
    logger = csv_logger(tmp_path)
    logger.log_hyperparams({"steps": 3, "name": "größer"})
    before = (tmp_path / "hparams.yaml").read_bytes()
    assert yaml.safe_load(before.decode("utf-8")) == {"steps": 3, "name": "größer"}
    with full_disk(len(before)), pytest.raises(UnwritableError, match=r"hparams\.yaml"):
        logger.log_hyperparams({"more": "x" * 100})
    assert (tmp_path / "hparams.yaml").read_bytes() == before
