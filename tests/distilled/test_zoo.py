"""The zoo of synthetic data."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import gtn_lightning
from benchmarks.zoo import main
from gtn_lightning.data.table import BUNDLED
from gtn_lightning.description import describe
from gtn_lightning.distilled import (
    load_zoo,
    read_distilled,
    write_distilled,
    zoo_entries,
    zoo_files,
    zoo_table,
)
from gtn_lightning.distilled.learners import home_learners, other_learners
from gtn_lightning.distilled.scores import judge_of, plays, replayed
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import LARS, SGD
from gtn_lightning.learners import MLP, Fixed
from tests.distilled.sets import digits_set, small_set


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo of one file."""
    data = small_set(LARS()).with_scores({"metric": "accuracy", "mean": 0.975, "std": 0.01})
    real = {"source": "bright [and] dark | images", "license": "CC0"}
    card = replace(data.card, real=real, made={"date": "2026-01-31", "seconds": 12.4, "seed": 3, "command": "gtn fit"})
    write_distilled(tmp_path / "bright.safetensors", replace(data, card=card))
    return tmp_path


def test_an_entry_says_what_the_card_says(zoo: Path) -> None:
    (entry,) = zoo_entries(zoo)
    assert (entry.name, entry.path) == ("bright", zoo / "bright.safetensors")
    assert (entry.source, entry.samples, entry.per_class) == ("bright [and] dark | images", 24, 12)
    assert (entry.reaches, entry.seconds, entry.date) == ("accuracy 97.5 ± 1.0 %", 12.4, "2026-01-31")
    assert len(entry.checksum) == 64
    table = zoo_table(zoo)
    assert "bright [and] dark" in table
    assert "accuracy 97.5 ± 1.0 %" in table


def test_tensors_are_loaded_by_name(zoo: Path) -> None:
    assert torch.equal(load_zoo("bright", zoo)["inputs"], small_set(LARS()).inputs)
    with pytest.raises(RecipeError, match=r"no file of the name '\.\./bright' in the zoo: it is one of bright"):
        load_zoo("../bright", zoo)


def test_an_empty_zoo_is_said(tmp_path: Path) -> None:
    assert zoo_entries(tmp_path) == []
    assert zoo_table(tmp_path) == "the zoo is empty"
    with pytest.raises(RecipeError, match="no file of the name 'digits' in the zoo: the zoo is empty"):
        load_zoo("digits", tmp_path)


@pytest.mark.parametrize("name", zoo_files())
def test_fresh_networks_reach_the_printed_figure(name: str) -> None:
    data = read_distilled(zoo_files()[name])
    if ((data.card.data or {}).get("init_args") or {}).get("path") not in (None, *BUNDLED):
        pytest.skip("its real data is not bundled: python -m benchmarks.zoo replays it")
    judge = judge_of(data)
    learners = home_learners(data) | ({} if plays(data) else other_learners(data))
    scores = torch.cat([replayed(make, data, judge.score, 2, seed=7) for make in learners.values()])
    printed = data.card.scores or {"mean": 500.0, "std": 10.0}  # of cartpole, as zoo/README.md has it
    assert float(scores.mean()) > printed["mean"] - 2 * printed["std"]


def test_the_packages_zoo_is_whole() -> None:
    assert [entry.name for entry in zoo_entries()] == list(zoo_files())
    assert all(load_zoo(name) for name in zoo_files())


def test_it_is_imported_when_it_is_first_used() -> None:
    assert gtn_lightning.load_zoo is load_zoo
    program = "import sys, gtn_lightning; assert 'load_zoo' in dir(gtn_lightning); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_report_replays_every_file_on_its_real_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    digits = digits_set(SGD(0.1, 0.5), steps=10, batch_size=64)
    learners = describe(Fixed(partial(MLP, shape=(1, 8, 8), outputs=10, hidden=[32])))
    real, made_by = {"source": "digits | real"}, {"seed": 3, "command": "gtn fit"}
    made = replace(digits, card=replace(digits.card, learners=learners, real=real, made=made_by))
    made = made.with_scores({"metric": "accuracy", "mean": 0.975, "std": 0.01})
    write_distilled(tmp_path / "real_digits.safetensors", made)
    main(["--zoo", str(tmp_path), "--networks", "2"])
    (printed,) = capsys.readouterr().out.splitlines()
    name, accuracy = printed.split(" ± ")[0].rsplit(" ", 1)
    assert name == "real_digits: accuracy"
    assert 60 < float(accuracy) < 100  # a network that has not been trained is right in 10 % of cases
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for line in (
        r"| source | digits \| real |",
        "| command | `gtn fit` |",
        "| seed | 3 |",
        "| metric, by its card | accuracy 97.5 ± 1.0 % |",
        f"| metric, replayed | {printed.removeprefix('real_digits: ')} |",
        f"| checksum | `{zoo_entries(tmp_path)[0].checksum}` |",
    ):
        assert line in text
