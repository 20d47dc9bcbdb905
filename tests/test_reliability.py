"""What happens to a process, and what is left of its run: the promises of docs/reliability.md."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RUN = [
    *("fit", "--config", "digits", "--model.inner_steps=3", "--model.eval_learners=1", "--model.real_rates=[0.1]"),
    *("--trainer.max_steps=20", "--trainer.val_check_interval=4", "--trainer.enable_progress_bar=false"),
    *("--trainer.logger=false", "--trainer.callbacks=[{class_path: TeacherCheckpoint}]"),
]

KILLS = 20


def command_line(arguments: list[str], folder: str) -> None:
    """Run ``gtn`` in a forked process that has everything imported."""
    from gtn_lightning.cli import main

    os.chdir(folder)
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    with open("output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = main(arguments)
    os._exit(code)


Start = Callable[[list[str], Path], "multiprocessing.process.BaseProcess"]


@pytest.fixture(scope="module")
def start() -> Start:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gtn_lightning.cli.app", "sklearn.datasets"])

    def started(arguments: list[str], folder: Path) -> "multiprocessing.process.BaseProcess":
        process = context.Process(target=command_line, args=(arguments, str(folder)))
        process.start()
        return process

    return started


def finished(process: "multiprocessing.process.BaseProcess", seconds: float = 120) -> int | None:
    process.join(seconds)
    return process.exitcode


def newest(folder: Path, name: str) -> Path:
    return max(folder.glob(f"runs/digits/*/{name}"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_teacher(start: Start, tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    for _ in range(2):  # the first also starts the process that the others are forked from
        began = time.monotonic()
        assert finished(start(RUN, undisturbed)) == 0, (undisturbed / "output.txt").read_text()
    whole = time.monotonic() - began

    moments = random.Random(0)
    killed = 0
    while True:
        again = ["--ckpt_path", "last"] if list(disturbed.glob("runs/digits/*/checkpoints/last.ckpt")) else []
        process = start([*RUN, *again], disturbed)
        if killed < KILLS:
            process.join(moments.uniform(0.2, 0.9) * whole)
            if process.is_alive():
                process.kill()
                killed += 1
        code = finished(process)
        assert code in (0, -signal.SIGKILL), (disturbed / "output.txt").read_text()
        if code == 0 and killed == KILLS:
            break
        if code == 0:  # done before the last kill: begin again from the start
            for path in disturbed.glob("runs/digits/*/checkpoints/last.ckpt"):
                path.unlink()
    # A killed process may leave the part that it was writing; nothing takes it for the file.
    for name in ("checkpoints/last.ckpt", "teacher.safetensors"):
        assert newest(disturbed, name).is_file()
    last, expected = (
        torch.load(newest(f, "checkpoints/last.ckpt"), weights_only=True) for f in (disturbed, undisturbed)
    )
    assert last["global_step"] == expected["global_step"] == 20
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(last["state_dict"][name], tensor), name
    teachers = [load_file(newest(folder, "teacher.safetensors")) for folder in (disturbed, undisturbed)]
    for name, tensor in teachers[1].items():
        assert torch.equal(teachers[0][name], tensor), name


def when_training(folder: Path, process: "multiprocessing.process.BaseProcess") -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/digits/*/checkpoints/last.ckpt")):
        assert process.is_alive(), (folder / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_sigterm_saves_the_last_meta_step_and_says_how_to_go_on(start: Start, tmp_path: Path) -> None:
    process = start([*RUN, "--trainer.max_steps=100000"], tmp_path)
    when_training(tmp_path, process)
    before = torch.load(newest(tmp_path, "checkpoints/last.ckpt"), weights_only=True)["global_step"]
    time.sleep(0.3)
    process.terminate()
    assert finished(process, 60) == 143
    assert torch.load(newest(tmp_path, "checkpoints/last.ckpt"), weights_only=True)["global_step"] >= before
    last_line = (tmp_path / "output.txt").read_text().splitlines()[-1]
    assert last_line.startswith("gtn: terminated; ")
    assert "--ckpt_path runs/digits/" in last_line


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_end_when_one_process_is_killed(rank: int, tmp_path: Path) -> None:
    many = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=100000"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with (tmp_path / "output.txt").open("w") as output:
        first = subprocess.Popen(
            [Path(sys.executable).with_name("gtn"), *RUN, *many],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/digits/*/checkpoints/last.ckpt")):
        assert first.poll() is None, (tmp_path / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (other,) = children(first.pid)
    os.kill(first.pid if rank == 0 else other, signal.SIGKILL)
    ends = time.monotonic() + 60
    while first.poll() is None or Path(f"/proc/{other}").exists():
        assert time.monotonic() < ends, "somebody hangs"
        time.sleep(0.1)
    assert first.returncode != 0
    said = (tmp_path / "output.txt").read_text()
    assert "gtn: error: another process of this run has ended" in said
    assert "Traceback" not in said


def children(process: int) -> list[int]:
    """Return the processes that one has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]
