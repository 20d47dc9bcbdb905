"""``gtn distil``: from data to a file."""

from pathlib import Path

import pytest
import yaml

from gtn_lightning.cli import main
from gtn_lightning.distilled import read_distilled


@pytest.mark.slow
def test_a_table_becomes_a_file_with_card_recipe_and_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["distil", "wine", "--minutes=0.01", "--out=made", "--cpu"]) == 0
    printed = capfd.readouterr().out
    assert "wine: 106 rows of 13, 3 classes" in printed
    assert "random real subset, best soft labels" in printed
    data = read_distilled("made/synthetic.safetensors")
    assert (data.steps, data.batch_size, data.classes) == (11, 3, 3)
    assert data.card.real["class_names"] == ["0", "1", "2"]
    assert data.card.scores["architectures"]["MLP, tanh"]["met"] is False
    page = Path("made/README.md").read_text()
    assert "| linear | met |" in page
    for picture in page.splitlines():
        if picture.startswith("!["):
            assert (Path("made") / picture.partition("(")[2].rstrip(")")).is_file()
    recipe = yaml.safe_load(Path("made/recipe.yaml").read_text())
    assert recipe["model"]["inner_optimizer"]["class_path"] == "LARS"
    assert recipe["trainer"]["max_steps"] == 50
    # A finished folder is not overwritten.
    assert main(["distil", "wine", "--minutes=0.01", "--out=made"]) == 2
    assert "--out made: is there already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_folder"], "no_such_folder"),
        (["wine", "--minutes=0"], "--minutes must be above 0 and finite, got 0.0"),
        (["digits", "--images-per-class=1000"], "--images-per-class must be at most 119"),
        (["digits", "--image-per-class=10"], "gtn distil: unrecognized arguments: --image-per-class=10"),
    ],
)
def test_wrong_input_leaves_nothing_behind(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["distil", *arguments]) == 2
    printed = capfd.readouterr().err
    assert message in printed
    assert printed.strip().splitlines()[-1].startswith("gtn: error: ")
    assert list(tmp_path.iterdir()) == []
