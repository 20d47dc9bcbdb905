"""Several processes teach different learners and hold one teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gtn_lightning.agreement import digest
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from tests.scale_run import WAYS
from tests.tiny import make_gtn, make_trainer, run_processes, same, with_generator


def run(folder: Path, devices: int) -> list[dict[str, Any]]:
    """What each process of a run of ``scale_run.py`` left."""
    run_processes("tests.scale_run", str(folder), str(devices))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(devices)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return run(folder, 2)


@pytest.mark.slow
def test_the_averaged_meta_gradient_is_the_mean_of_those_of_single_processes(two: list[dict[str, Any]]) -> None:
    assert not same(two[0]["own"], two[1]["own"])  # each taught a learner of its own
    for rank in two:
        for name, averaged in rank["averaged"].items():
            mean = (two[0]["own"][name] + two[1]["own"][name]) / 2
            assert averaged.dtype == torch.float64
            assert float((averaged - mean).norm()) <= 1e-12 * float(mean.norm()), name


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_teacher_is_the_same_on_both_in_every_bit(way: str, two: list[dict[str, Any]]) -> None:
    assert same(two[0][way], two[1][way])
    assert all(tensor.isfinite().all() for tensor in two[0][way].values() if tensor.is_floating_point())
    assert (way == "plain") or not same(two[0][way], two[0]["plain"]) or way == "static graph"


@pytest.mark.slow
def test_a_process_that_strays_stops_the_run_at_the_next_validation(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert rank["strayed"].startswith("meta-step 4: the teachers of processes [1] are not that of process 0")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 3])
def test_a_run_of_two_processes_is_resumed_on_others(devices: int, folder: Path, two: list[dict[str, Any]]) -> None:
    ranks = run(folder, devices)
    for rank in ranks:
        assert rank["steps"] == 6
        assert same(rank["resumed"], ranks[0]["resumed"])


def test_a_digest_changes_with_a_single_bit() -> None:
    gtn = make_gtn(**with_generator())
    before = digest(gtn)
    assert torch.equal(digest(make_gtn(**with_generator())), before)
    for tensor in gtn.state_dict().values():
        flat = tensor.view(-1)
        kept = flat[-1].clone()
        flat[-1] += 1
        assert not torch.equal(digest(gtn), before)
        flat[-1] = kept
    assert torch.equal(digest(gtn), before)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_a_strategy_that_shards_the_teacher_is_refused(name: str, tmp_path: Path) -> None:
    gtn = make_gtn()
    trainer = make_trainer(tmp_path)
    trainer.strategy.__class__ = type(name, (type(trainer.strategy),), {})  # the real ones want a GPU
    with pytest.raises(RecipeError, match=f"trainer.strategy: {name} shards parameters.*use ddp"):
        trainer.fit(gtn, DigitsData(32))
