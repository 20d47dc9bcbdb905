"""A user's own parts, from one file of theirs, through the command line."""

import csv
from pathlib import Path

import pytest
from safetensors import safe_open

from gtn_lightning import GTN
from gtn_lightning.cli import main

HERE = Path(__file__).parent


def test_parts_of_ones_own_are_taught_tested_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(HERE)
    runs = tmp_path / "runs"
    assert main(["fit", "--config", "my_recipe.yaml", f"--trainer.default_root_dir={runs}"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("run folder: "))
    assert folder.parent == runs

    teacher = folder / "teacher.safetensors"
    assert main(["test", "--teacher", str(teacher)]) == 0
    tested = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("run folder: "))
    with (tested / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["test/accuracy"]) > 0.7  # guessing: a third

    assert main(["predict", "--teacher", str(teacher)]) == 0
    (written,) = (folder / "predict").glob("*/synthetic.safetensors")
    with safe_open(written, framework="pt") as file:
        assert file.get_slice("inputs").get_shape() == [4, 12, 1, 4, 4]

    gtn = GTN.from_teacher(teacher)
    assert type(gtn.teacher).__module__ == "my_parts"
