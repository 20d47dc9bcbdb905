"""``gtn replay`` and ``gtn compare`` on a file of synthetic data."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from gtn_lightning.cli import main
from gtn_lightning.cli.data_commands import DATA_COMMANDS
from gtn_lightning.cli.front_door import DATA_HELP
from gtn_lightning.distilled import read_distilled, write_distilled
from gtn_lightning.distilled.card_page import save_scores, write_page
from gtn_lightning.inner_loop import LARS
from tests.distilled.sets import digits_set

NETS = """
from torch import nn

def Net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Sized(nn.Module):
    def __init__(self, width):
        super().__init__()

def wrong():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


BROKEN = "raise KeyError('no such key')"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Real digits in the place of synthetic ones, in a working folder with networks."""
    monkeypatch.chdir(tmp_path)
    write_distilled("synthetic.safetensors", digits_set(LARS(0.1, 0.5), steps=4, batch_size=20))
    Path("some_nets.py").write_text(NETS)
    Path("broken_nets.py").write_text(BROKEN)
    return "synthetic.safetensors"


def test_the_help_names_every_option() -> None:
    assert DATA_COMMANDS.keys() == DATA_HELP.keys()
    for name, function in DATA_COMMANDS.items():
        for option, parameter in inspect.signature(function).parameters.items():
            wanted = option.upper() if parameter.default is parameter.empty else f"  --{option.replace('_', '-')}"
            assert wanted in DATA_HELP[name], f"gtn {name}: {option}"


def test_replay_trains_a_network_of_the_users(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", file, "--learner", "some_nets:Net", "--networks=2"]) == 0
    printed = capsys.readouterr().out
    assert "4 steps of 20 synthetic samples, 2 fresh networks, scored on 300 samples of the test split" in printed
    (line,) = [line for line in printed.splitlines() if "some_nets:Net" in line]
    assert float(line.split()[1]) > 50


def test_a_style_in_the_working_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe\x00")
    command = [sys.executable, "-m", "gtn_lightning", "zoo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_compare_prints_every_source_and_writes_its_scores_into_the_file(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_page(Path(), read_distilled(file), "digits")
    assert main(["compare", file, "--networks=1", "--passes=[1]", "--save"]) == 0
    scores = read_distilled(file).card.scores
    assert scores["samples"] == 300
    assert "ResNet" in scores["architectures"]
    printed = capsys.readouterr()
    assert "random real subset, best soft labels" in printed.out
    assert "training on: all real data, to the end" in printed.err
    assert f"scores written: {file}\nscores written: README.md\n" in printed.out
    assert "| ResNet | never met |" in Path("README.md").read_text()
    # A page that somebody has changed stays.
    Path("README.md").write_text("my notes\n")
    assert save_scores(Path(file), scores) == [Path(file)]
    assert Path("README.md").read_text() == "my notes\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "the following arguments are required: file; `gtn replay --help` lists its options"),
        (["replay", "nothing"], "nothing: there is no such file: give the path of a synthetic.safetensors"),
        (["replay", "FILE"], "does not say which networks it is for: name one with --learner"),
        (["replay", "FILE", "--learner=Net"], "--learner Net: expected MODULE:NAME, or one of ConvNet"),
        (["replay", "FILE", "--learner=no:Net"], "--learner no:Net: cannot be imported (No module named 'no')"),
        (["replay", "FILE", "--learner=some_nets:wrong"], "expected outputs [20, 10] for 20 inputs, got [20, 3]"),
        (["replay", "FILE", "--learner=some_nets:Sized"], "cannot be made without arguments"),
        (["replay", "FILE", "--learner=some_nets:nn"], "cannot be made without arguments"),
        (["replay", "FILE", "--learner=broken_nets:Net"], "cannot be imported (KeyError: 'no such key')"),
        (["replay", "FILE", "--learner=torch.nn:Flatten"], "has no parameters to train"),
        (["replay", "FILE", "--learner=MLP", "--data=x"], "--data x: the file was made from DigitsData, which has no"),
        (["replay", "FILE", "--learner=MLP", "--networks=0"], "--networks must be at least 1, got 0"),
        (["replay", "FILE", "--learner=MLP", "--scale=0"], "--scale must be above 0 and finite, got 0.0"),
        (["replay", "FILE", "--learner=MLP", "--steps=3"], "gtn replay: unrecognized arguments: --steps=3"),
        (["compare", "digits", "--save"], "--save: digits is a file of the package: copy it, and name the copy"),
        (["compare", "FILE", "--passes=[0]"], "--passes must be whole numbers of at least 1, got [0]"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    file: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([file if word == "FILE" else word for word in arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
