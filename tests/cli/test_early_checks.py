"""Common slips on the command line, told without loading torch."""

import inspect
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI

from gtn_lightning import GTN
from gtn_lightning.cli import main
from gtn_lightning.cli.early_checks import KEYS
from gtn_lightning.cli.faults import Section, find_fault
from gtn_lightning.cli.front_door import COMMAND_HELP
from gtn_lightning.cli.recipes import overrides

SLIPS = {
    # no option
    "fit digits": "digits: expected an option; did you mean --config digits?",
    "fit digit": "digit: expected an option; did you mean --config digits?",
    "fit my.yaml": "my.yaml: expected an option; did you mean --config my.yaml?",
    "test my.safetensors": "my.safetensors: expected an option; did you mean --teacher my.safetensors?",
    "predict a/b.safetensors": "a/b.safetensors: expected an option; did you mean --teacher a/b.safetensors?",
    "fit --config digits last.ckpt": "last.ckpt: expected an option; did you mean --ckpt_path last.ckpt?",
    "fit --config digits trainer.max_steps=3": "trainer.max_steps=3: expected an option; did you mean --trainer.max_s",
    "fit --config digits quickly": "quickly: expected an option; options begin with --",
    # nothing to work on
    "fit": "gtn fit: expected a recipe; give --config RECIPE (`gtn recipes` lists them)",
    "search": "gtn search: expected a recipe; give --config RECIPE",
    "test": "gtn test: expected a teacher; give --teacher FILE, or --config RECIPE and --ckpt_path FILE",
    "predict --trainer.devices=1": "gtn predict: expected a teacher; give --teacher FILE",
    "fit --teacher my.safetensors": "gtn fit: expected a recipe; give --config RECIPE",
    "--trainer.max_steps=3": "expected a command as the first word, one of fit, ",
    "--trusted-only": "expected a command as the first word, one of fit, ",
    # no value
    "fit --config": "--config: expected the name or the path of a recipe behind it; `gtn recipes` lists names",
    "fit --config --trainer.max_steps=3": "--config: expected the name or the path of a recipe behind it",
    # no such key
    "fit --config digits --max_steps=3": "max_steps: there is no such key; did you mean trainer.max_steps?",
    "fit --config digits --max_steps 3": "max_steps: there is no such key; did you mean trainer.max_steps?",
    "fit --config digits --optimizer=SGD": "optimizer: there is no such key; did you mean model.outer_optimizer?",
    "fit --config digits --modell.inner_loop.steps=3": "modell.inner_loop.steps: there is no such key; did you mean mo",
    "fit --config digits --zzz=3": "zzz: there is no such key; correct it, or see all keys: gtn fit --help=all",
    "fit --config wrong.yaml": "trianer: there is no such key; did you mean trainer?",
    # no such file
    "test --teacher none.safetensors": "--teacher none.safetensors: there is no such file; give a teacher.safetensors",
    "fit --config digits --ckpt_path=none.ckpt": "--ckpt_path none.ckpt: there is no such file; give the path of a",
}


@pytest.mark.parametrize("words", SLIPS)
def test_a_slip_is_told_with_what_was_meant(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text("extends: digits\ntrianer: {max_steps: 3}\n")
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gtn: error: {SLIPS[words]}")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_first_parts_of_keys_are_those_that_lightning_takes(command: str) -> None:
    taken = inspect.signature(getattr(pl.Trainer, command)).parameters.keys()
    assert taken - LightningCLI.subcommands()[command] - {"self"} <= KEYS


@pytest.mark.parametrize("command", COMMAND_HELP)
def test_the_help_of_a_command_is_short_and_names_keys_that_exist(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: gtn {command} " in shown
    assert f"gtn {command} --help=all" in shown
    assert len(shown.splitlines()) < 40
    keys = [key for key in re.findall(r"^  (--\S+=\S+) {2}", shown, re.MULTILINE) if "init_args" not in key]
    root = Section(
        {"model": Section.of(GTN), "trainer": Section.of(pl.Trainer), "seed_everything": int, "ckpt_path": str}
    )
    for content in overrides(keys):
        fault = find_fault([content], Section(root.kinds))
        assert fault is None or "required" in fault.reason


@pytest.mark.slow
def test_all_keys_are_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help=all"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--model.outer_groups" in shown
    assert "--trainer.gradient_clip_val" in shown
