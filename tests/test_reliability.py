"""What happens to a process, and what is left of its run: the promises of docs/reliability.md."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import finished, said, start, start_gtn

ROOT = "runs/digits"
"""Where the runs of all recipes are."""


def run_of(recipe: str, *arguments: str) -> list[str]:
    """Return the command of a short run."""
    return [
        *("fit", "--config", recipe, "--model.inner_loop.steps=3", "--model.evaluation.learners=1"),
        *("--model.evaluation.real_rates=[0.1]", "--trainer.max_steps=20", "--trainer.val_check_interval=4"),
        *("--trainer.enable_progress_bar=false", "--trainer.logger=false"),
        *("--trainer.callbacks=[{class_path: TeacherCheckpoint}]", f"--trainer.default_root_dir={ROOT}", *arguments),
    ]


RUN = run_of("digits")

AGENTS = run_of("cartpole", "--model.population=2", "--data.init_args.episodes=2", "--data.init_args.eval_episodes=2")

ENDS = int(os.environ.get("GTN_TEST_ENDS", "6"))
"""How many times a run is ended; other runs less often, which take longer to begin or go the same way."""

ENDS_OF_OTHERS = max(2, ENDS // 3)

TOLD = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
"""The exit codes of a run that is told to end."""


def newest(folder: Path, name: str) -> Path:
    return max(folder.glob(f"runs/digits/*/{name}"), key=lambda path: path.stat().st_mtime)


def hears(process: int) -> bool:
    """Return whether a process handles SIGTERM by now."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def same(disturbed: Path, undisturbed: Path) -> None:
    """See that two runs have come to the same end."""
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


def begin_anew(folder: Path) -> None:
    for path in folder.glob("runs/digits/*/checkpoints/last.ckpt"):
        path.unlink()


def resuming(folder: Path) -> list[str]:
    return ["--ckpt_path", "last"] if list(folder.glob("runs/digits/*/checkpoints/last.ckpt")) else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "ends", "signals"),
    [
        pytest.param(RUN, ENDS, [signal.SIGKILL, *TOLD], id="classification"),
        pytest.param(AGENTS, ENDS_OF_OTHERS, [signal.SIGKILL], id="agents"),
        pytest.param(run_of("digits_autoencoder"), ENDS_OF_OTHERS, [signal.SIGKILL], id="autoencoding"),
    ],
)
def test_a_run_that_is_ended_again_and_again_comes_to_the_same_teacher(
    run: list[str], ends: int, signals: list[signal.Signals], tmp_path: Path
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    finished(start(print, folder=undisturbed))  # it starts the process that the others are forked from
    began = time.monotonic()
    assert finished(start_gtn(*run, folder=undisturbed)) == 0, said(undisturbed)
    whole = time.monotonic() - began

    moments = random.Random(0)
    ended = 0
    while True:
        process = start_gtn(*run, *resuming(disturbed), folder=disturbed)
        expected = {0}
        moment, number = 0.0, signal.SIGKILL
        if ended < ends:
            assert process.pid is not None
            pid = process.pid
            until(lambda: hears(pid) or not process.is_alive(), 120, "it does not begin")  # noqa: B023
            moment = moments.uniform(0, 0.9) * whole
            process.join(moment)
            number = moments.choice(signals)
            if process.is_alive():
                os.kill(pid, number)
                expected = {0, TOLD.get(number, -number)}  # 0: it was done in that moment
                ended += 1
        began = time.monotonic()
        code = finished(process)
        print(f"{number.name} after {moment:.1f} s: {code}, {time.monotonic() - began:.1f} s later", flush=True)
        output = said(disturbed)
        assert code in expected, output
        assert "Traceback" not in output
        if code == 0 and ended == ends:
            break
        if code == 0:
            begin_anew(disturbed)
    same(disturbed, undisturbed)


def processes_of(group: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(status.parent.name))
    return found


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.long
def test_two_processes_that_are_ended_again_and_again_come_to_the_same_teacher(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    began = time.monotonic()
    assert finished(start_gtn(*RUN, *TWO, folder=undisturbed)) == 0, said(undisturbed)
    whole = time.monotonic() - began

    moments = random.Random(1)
    ended = 0
    while True:
        first = start_gtn(*RUN, *TWO, *resuming(disturbed), folder=disturbed)
        assert first.pid is not None
        group = first.pid
        expected = {0}
        whom, moment, number = "nobody", 0.0, signal.SIGTERM
        if ended < ENDS_OF_OTHERS:
            until(lambda: hears(group) or not first.is_alive(), 120, "it does not begin")  # noqa: B023
            moment = moments.uniform(0, 1) * whole
            first.join(moment)
            number = moments.choice([signal.SIGKILL, *TOLD])
            whom = moments.choice(["all", "the first", "the second"])
            if first.is_alive():
                others = children(group)
                if whom == "the second" and others:
                    os.kill(others[0], number)
                elif whom == "the first":
                    os.kill(group, number)
                else:
                    os.killpg(group, number)
                ended += 1
                # A lost process is found out by the others, or by Lightning, which kills them.
                expected = {0, TOLD[number]} if number in TOLD else {0, 1, -number}
        began = time.monotonic()
        code = finished(first)
        later = time.monotonic() - began
        print(f"{number.name} to {whom} after {moment:.1f} s: {code}, {later:.1f} s later", flush=True)
        output = said(disturbed)
        assert code in expected, output
        assert "Traceback" not in output
        until(lambda: not processes_of(group), 120, "somebody hangs")  # noqa: B023
        if code == 0 and ended == ENDS_OF_OTHERS:
            break
        if code == 0:
            begin_anew(disturbed)
    same(disturbed, undisturbed)


def when_training(process: BaseProcess, folder: Path) -> int:
    """Wait until a run has saved something, and return its process."""

    def saved() -> bool:
        assert process.is_alive(), said(folder)
        return bool(list(folder.glob("runs/digits/*/checkpoints/last.ckpt")))

    until(saved, 300, "it does not begin")
    assert process.pid is not None
    return process.pid


@pytest.mark.slow
def test_sigterm_saves_the_last_meta_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start_gtn(*RUN, "--trainer.max_steps=100000", folder=tmp_path)
    when_training(process, tmp_path)
    before = torch.load(newest(tmp_path, "checkpoints/last.ckpt"), weights_only=True)["global_step"]
    time.sleep(0.3)
    process.terminate()
    assert finished(process, 60) == 143
    assert torch.load(newest(tmp_path, "checkpoints/last.ckpt"), weights_only=True)["global_step"] >= before
    last_line = said(tmp_path).splitlines()[-1]
    assert last_line.startswith("gtn: terminated; ")
    assert "--ckpt_path runs/digits/" in last_line


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_end_when_one_process_is_killed(rank: int, tmp_path: Path) -> None:
    process = start_gtn(*RUN, *TWO, "--trainer.max_steps=100000", folder=tmp_path)
    first = when_training(process, tmp_path)
    (other,) = children(first)
    os.kill(first if rank == 0 else other, signal.SIGKILL)
    until(lambda: not process.is_alive() and not processes_of(first), 60, "somebody hangs")
    assert process.exitcode != 0
    output = said(tmp_path)
    assert "gtn: error: another process of this run has ended" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_nobody_waits_for_a_process_that_was_killed_before_the_run_began(tmp_path: Path) -> None:
    process = start_gtn(*RUN, *TWO, folder=tmp_path)
    first = process.pid
    assert first is not None
    until(lambda: bool(children(first)), 300, "it does not begin")
    until(lambda: hears(children(first)[0]), 300, "the second does not begin")
    process.kill()
    until(lambda: not process.is_alive() and not processes_of(first), 120, "somebody hangs")


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "the first", "the second"])
def test_two_processes_are_told_to_end(whom: str, tmp_path: Path) -> None:
    process = start_gtn(*RUN, *TWO, "--trainer.max_steps=100000", folder=tmp_path)
    first = when_training(process, tmp_path)
    (other,) = children(first)
    before = torch.load(newest(tmp_path, "checkpoints/last.ckpt"), weights_only=True)["global_step"]
    if whom == "all":
        os.killpg(first, signal.SIGTERM)
    else:
        os.kill(first if whom == "the first" else other, signal.SIGTERM)
    until(lambda: not process.is_alive() and not processes_of(first), 120, "somebody hangs")
    output = said(tmp_path)
    assert process.exitcode == 143, output
    assert "Traceback" not in output
    (line,) = (line for line in output.splitlines() if line.startswith("gtn: "))
    assert line.startswith("gtn: terminated; runs/digits/")
    assert torch.load(newest(tmp_path, "checkpoints/last.ckpt"), weights_only=True)["global_step"] >= before


def children(process: int) -> list[int]:
    """Return the processes that one has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]
