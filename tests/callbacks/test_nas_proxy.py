"""How well the synthetic data ranks architectures, on any number of processes."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from gtn_lightning.callbacks import NASProxy
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import ConvNetGrid, FullTraining, MeasuredReference, TableReference
from tests import processes
from tests.callbacks import nas_run
from tests.callbacks.nas_run import measured
from tests.tiny import SHAPE, make_gtn, make_trainer

GRID = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1, 2])


def tabled(folder: Path, **options: Any) -> NASProxy:
    path = folder / "table.csv"
    rows = [f"{one},{0.1 if 'sigmoid' in one.name else 0.5 + i / 1000}" for i, one in enumerate(GRID)]
    path.write_text("\n".join(["architecture,accuracy", *rows]))
    return NASProxy(GRID, TableReference(str(path)), **{"architectures": 20, "images": 100} | options)


def test_a_validation_ranks_writes_and_draws(tmp_path: Path) -> None:
    callback = tabled(tmp_path)
    trainer = make_trainer(tmp_path / "run", max_steps=2, val_check_interval=2, callbacks=[callback])
    trainer.fit(make_gtn(), DigitsData(32))
    rows = list(csv.DictReader((tmp_path / "run" / "nas_proxy.csv").open()))
    assert len({row["architecture"] for row in rows}) == 20
    assert all(GRID.is_held_out(GRID.parse(row["architecture"]), 0.5) for row in rows)
    score, parameters, accuracy = ([float(row[key]) for row in rows] for key in ("score", "parameters", "accuracy"))
    logged = trainer.callback_metrics
    assert float(logged["nas/spearman"]) == pytest.approx(spearmanr(score, accuracy).statistic, abs=1e-6)
    assert float(logged["nas/kendall"]) == pytest.approx(kendalltau(score, accuracy).statistic, abs=1e-6)
    assert float(logged["nas/parameters_spearman"]) == pytest.approx(
        spearmanr(parameters, accuracy).statistic, abs=1e-6
    )
    assert logged["nas/spearman_low"] < logged["nas/spearman"] < logged["nas/spearman_high"]
    working = [(s, a) for s, a in zip(score, accuracy, strict=True) if a > 0.12]
    expected = spearmanr(*zip(*working, strict=True)).statistic
    assert float(logged["nas/spearman_working"]) == pytest.approx(expected, abs=1e-6)
    assert logged["nas/regret_1"] >= logged["nas/regret_5"] >= logged["nas/regret_10"] >= 0
    assert (tmp_path / "run" / "pictures" / "nas_proxy.png").read_bytes().startswith(b"\x89PNG")


def test_only_every_so_many_validations_and_at_tests(tmp_path: Path) -> None:
    never = tabled(tmp_path, every_n_validations=0)
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=1, callbacks=[never])
    gtn, data = make_gtn(), DigitsData(32)
    trainer.fit(gtn, data)
    assert never.ranking is None
    trainer.test(gtn, data, verbose=False)
    assert never.ranking is not None
    assert never.ranking.architectures == 20


def test_accuracies_are_measured_once(tmp_path: Path) -> None:
    for _ in range(2):
        callback = measured(tmp_path)
        trainer = make_trainer(tmp_path / "run", callbacks=[callback])
        trainer.validate(make_gtn(), DigitsData(32), verbose=False)
        data = DigitsData(32)
        data.setup()
        seconds = callback.reference.bind(data).seconds(callback.space, callback._sample)
        assert seconds > 0
        known = callback._accuracies
        assert known is not None
        if _ == 0:
            first = (seconds, known)
    assert first[0] == seconds
    assert torch.equal(first[1], known)


@pytest.mark.slow
def test_two_and_three_processes_agree_with_one(tmp_path: Path) -> None:
    tables = []
    for devices in (1, 2, 3):
        folder = tmp_path / str(devices)
        processes.run(nas_run.main, folder, devices, folder=folder, count=devices)
        tables.append((folder / "nas_proxy.csv").read_text())
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0].splitlines()) == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(NASProxy, GRID, MeasuredReference(FullTraining()), architectures=2),
            "architectures must be at least 3, got 2",
        ),
        (
            partial(NASProxy, GRID, MeasuredReference(FullTraining()), every_n_validations=-1),
            "every_n_validations must be at least 0, got -1",
        ),
    ],
)
def test_what_cannot_work_is_refused(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
