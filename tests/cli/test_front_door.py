"""What ``gtn`` answers at once: help, version, the packaged recipes, and faulty commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from gtn_lightning import __version__
from gtn_lightning.cli import main
from gtn_lightning.cli.packaged import packaged_recipes

HEAVY = ("torch", "pytorch_lightning", "wandb", "numpy", "matplotlib")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("fit", "validate", "test", "predict", "search", "recipes", "--version", "--trusted-only"):
        assert word in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gtn {__version__}\n"


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_packaged_recipe_is_printed_as_it_is_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", name]) == 0
    assert capsys.readouterr().out.rstrip() == packaged_recipes()[name].read_text(encoding="utf-8").rstrip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "fitt: there is no such command; did you mean fit?"),
        (["train"], "train: there is no such command; use one of fit, "),
        (["recipes", "digit"], "gtn recipes digit: there is no packaged recipe of that name; it is one of acrobot, "),
        (
            ["fit", "--config", "search_digits"],
            "--config search_digits: it is a recipe for gtn search, and not for gtn",
        ),
        (["search", "--config", "digits"], "--config digits: it is a recipe for gtn fit, and not for gtn search"),
        (["fit", "--config", "missing.yaml"], "--config missing.yaml: there is no such file"),
        (["fit", "--config", "twice.yaml"], "twice.yaml is not valid YAML: line 1, column 12: "),
    ],
)
def test_a_faulty_command_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("twice.yaml").write_text("{model: 1, model: 2}")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"gtn: error: {message}")


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["fit", "--config", "missing.yaml"]])
def test_nothing_heavy_is_loaded_for_it(arguments: list[str]) -> None:
    program = f"import sys; from gtn_lightning.cli import main; main({arguments}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not set(HEAVY) & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("value", ["0", "-1", "two", "10000", ""])
def test_what_is_no_number_of_threads(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "digits", f"--threads={value}"]) == 2
    assert capsys.readouterr().err == f"gtn: error: --threads must be from 1 to 1024, got {value!r}\n"
