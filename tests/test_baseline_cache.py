"""Scores of the real-data baseline that are kept between runs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gtn_lightning.baselines import RealDataBaseline
from gtn_lightning.data import DigitsData
from gtn_lightning.evaluation import EvaluationResult
from gtn_lightning.inner_loop import SGD
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.teachers import Pixels
from tests.tiny import BATCH, SHAPE, STEPS, make_gtn, make_trainer

TAKEN = "The real-data baseline on the val split was computed by an earlier run"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GTN_BASELINES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gtn-lightning" / "baselines"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The learners that a baseline has trained."""
    trained: list[nn.Module] = []
    teach = RealDataBaseline.teach

    def watched(self: RealDataBaseline, learner: nn.Module, generator: torch.Generator) -> Any:
        trained.append(learner)
        return teach(self, learner, generator)

    monkeypatch.setattr(RealDataBaseline, "teach", watched)
    return trained


def validated(tmp_path: Path, data: DigitsData | None = None, **changes: Any) -> EvaluationResult:
    gtn = make_gtn(**changes)
    make_trainer(tmp_path).validate(gtn, data or DigitsData(32), verbose=False)
    assert gtn.result is not None
    return gtn.result


class OwnNet(MLP):
    """A learner whose code is not of this package."""


def test_a_baseline_is_computed_once_and_has_the_same_scores(
    kept: Path, trained: list[nn.Module], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = validated(tmp_path)
    assert len(trained) == 2
    (file,) = kept.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    torch.manual_seed(5)
    with caplog.at_level("INFO"):
        # Another teacher, and another split of rates that only meta-training uses.
        again = validated(tmp_path, teacher=Pixels(SHAPE, 10, STEPS * BATCH, soft_labels=True))
    assert len(trained) == 2
    assert f"{TAKEN}: {file}" in caplog.text
    assert first.baseline is not None
    assert again.baseline is not None
    assert torch.equal(again.baseline, first.baseline)
    assert not torch.equal(again.synthetic, first.synthetic)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"evaluation": {"real_rates": [0.2]}},
        {"inner_optimizer": SGD(lr=0.1, momentum=0.4, learned_per_step=["lr", "momentum"], steps=STEPS)},
        {"learners": Fixed(partial(MLP, shape=SHAPE, outputs=10, hidden=[9], activation="tanh"))},
        {"data": DigitsData(32, eval_batch_size=100)},
    ],
    ids=["seed", "rates", "optimizer", "learners", "data"],
)
def test_what_it_depends_on_makes_another(
    changes: dict[str, Any], kept: Path, trained: list[nn.Module], tmp_path: Path
) -> None:
    validated(tmp_path)
    validated(tmp_path, **changes)
    assert len(trained) == 4
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("fault", ["no JSON", "another key", "other numbers", "others can write to it"])
def test_a_damaged_or_foreign_file_is_not_used(
    fault: str, kept: Path, trained: list[nn.Module], tmp_path: Path
) -> None:
    first = validated(tmp_path)
    (file,) = kept.iterdir()
    content = json.loads(file.read_text())
    if fault == "others can write to it":
        file.chmod(0o666)
    elif fault == "no JSON":
        file.write_text(file.read_text()[:-1])
    elif fault == "another key":
        file.write_text(json.dumps(content | {"key": "0" * 64}))
    else:
        file.write_text(json.dumps(content | {"scores": [[True] * len(row) for row in content["scores"]]}))
    with pytest.warns(UserWarning, match=f"the kept baseline {file} is not used"):
        again = validated(tmp_path)
    assert len(trained) == 4
    assert first.baseline is not None
    assert again.baseline is not None
    assert torch.equal(again.baseline, first.baseline)
    validated(tmp_path)  # the file was replaced
    assert len(trained) == 4


def test_code_of_ones_own_is_not_kept(kept: Path, trained: list[nn.Module], tmp_path: Path) -> None:
    learners = Fixed(partial(OwnNet, shape=SHAPE, outputs=10))
    for _ in range(2):
        validated(tmp_path, learners=learners)
    assert len(trained) == 4
    assert not kept.exists()


def test_the_variable_names_the_folder_or_none(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTN_BASELINES", "")
    validated(tmp_path)
    assert not kept.exists()
    monkeypatch.setenv("GTN_BASELINES", str(tmp_path / "elsewhere"))
    validated(tmp_path)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_a_folder_that_is_there_keeps_its_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    monkeypatch.setenv("GTN_BASELINES", str(shared))
    validated(tmp_path)
    assert len(list(shared.iterdir())) == 1
    assert shared.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_asked_for_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTN_BASELINES", str(tmp_path / ("x" * 300)))
    with pytest.warns(UserWarning, match="the real-data baseline is not kept"):
        assert validated(tmp_path).baseline is not None
