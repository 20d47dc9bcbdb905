"""Several processes teach different learners and hold one teacher."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.replicas import checksum
from tests import processes, scale_run
from tests.scale_run import WAYS
from tests.tiny import make_gtn, make_trainer, same, with_generator


def run(folder: Path, devices: int, accelerator: str = "cpu") -> list[dict[str, Any]]:
    """What each process of a run of ``scale_run.py`` left."""
    processes.run(scale_run.main, folder, devices, accelerator, folder=folder / accelerator, count=devices)
    files = [folder / f"rank{rank}.pt" for rank in range(devices)]
    return [torch.load(file, map_location="cpu", weights_only=False) for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return run(folder, 2)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs two CUDA devices")
def test_two_gpus_keep_what_two_cpu_processes_keep(tmp_path: Path) -> None:
    two = run(tmp_path, 2, "gpu")
    test_the_averaged_meta_gradient_is_the_mean_of_those_of_single_processes(two)
    test_a_process_that_strays_stops_the_run_at_the_next_validation(two)
    test_an_infinite_gradient_of_one_process_sends_both_back_to_the_last_good_state(two)
    for way in WAYS:
        test_the_teacher_is_the_same_on_both_in_every_bit(way, two)


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
def test_an_infinite_gradient_of_one_process_sends_both_back_to_the_last_good_state(two: list[dict[str, Any]]) -> None:
    for before in (rank["recovered"] for rank in two):
        assert not same(before[3], before[2])
        assert same(before[4], before[3])  # skipped
        assert same(before[5], before[2])  # the second in a row: back to the validation after two meta-steps
    assert all(same(*states) for states in zip(two[0]["recovered"], two[1]["recovered"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 3])
def test_a_run_of_two_processes_is_resumed_on_others(devices: int, folder: Path, two: list[dict[str, Any]]) -> None:
    ranks = run(folder, devices)
    for rank in ranks:
        assert rank["steps"] == 6
        assert same(rank["resumed"], ranks[0]["resumed"])


@pytest.mark.long
def test_two_nodes_started_by_torchrun_share_one_run(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scripts = Path(sys.executable).parent
    node = [
        *(str(scripts / "torchrun"), "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint=127.0.0.1:{port}", str(scripts / "gtn"), "fit", "--config=digits"),
        *("--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp", "--trainer.max_steps=2"),
        *("--trainer.val_check_interval=2", "--model.inner_loop.steps=2", "--model.evaluation.learners=2"),
        *("--model.evaluation.real_rates=[0.1]", "--trainer.logger=false"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "GLOO_SOCKET_IFNAME": "lo"}
    nodes = [
        subprocess.Popen(
            node, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], "\n".join(said)
    (run,) = (tmp_path / "runs" / "digits").iterdir()
    assert (run / "teacher.safetensors").is_file()
    assert sum(f"run folder: {run.relative_to(tmp_path)}" in output for output in said) == 1


def test_a_digest_changes_with_a_single_bit() -> None:
    gtn = make_gtn(**with_generator())
    before = checksum(gtn)
    assert torch.equal(checksum(make_gtn(**with_generator())), before)
    for tensor in gtn.state_dict().values():
        flat = tensor.view(-1)
        kept = flat[-1].clone()
        flat[-1] += 1
        assert not torch.equal(checksum(gtn), before)
        flat[-1] = kept
    assert torch.equal(checksum(gtn), before)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_a_strategy_that_shards_the_teacher_is_refused(name: str, tmp_path: Path) -> None:
    gtn = make_gtn()
    trainer = make_trainer(tmp_path)
    trainer.strategy.__class__ = type(name, (type(trainer.strategy),), {})  # the real ones want a GPU
    with pytest.raises(RecipeError, match=f"trainer.strategy: {name} shards parameters.*use ddp"):
        trainer.fit(gtn, DigitsData(32))
