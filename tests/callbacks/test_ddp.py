"""The callbacks on two processes: rank zero alone writes, and a rank that dies takes no meta-step with it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import processes
from tests.callbacks import ddp_run


@pytest.mark.slow
@pytest.mark.parametrize("blocked", ["checkpoints/best-3.ckpt", "checkpoints/last.ckpt", "teacher.safetensors"])
def test_both_processes_end_if_one_cannot_write(blocked: str, tmp_path: Path) -> None:
    started = processes.start_several(2, ddp_run.write_in_vain, tmp_path / "run", blocked, folder=tmp_path)
    for number, process in enumerate(started):
        processes.finished(process)
        assert f"rank {number}: cannot write {tmp_path / 'run' / blocked}" in processes.said(
            tmp_path / f"process{number}"
        )


@pytest.mark.slow
def test_two_processes_leave_what_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")  # or W&B has the last word, when the process ends
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    first, second = processes.start_several(2, ddp_run.main, folder, folder=tmp_path)
    codes = [processes.finished(first), processes.finished(second)]
    said = processes.said(tmp_path / "process0")
    assert "4 steps, rank 0 done" in said
    assert said.count("meta-step 3/3") == 1
    # Fit and predict name it.
    assert [line for line in said.splitlines() if line.startswith("run folder: ")] == [f"run folder: {folder}"] * 2

    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        "learning_curve.png",
        "samples.png",
    ]
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert not list(folder.rglob("*.part"))
    # Each process made two of the four steps; image i of the pool is of class i modulo 10.
    synthetic = load_file(folder / "synthetic.safetensors")
    best = torch.load(folder / "checkpoints/best-3.ckpt", weights_only=True)["state_dict"]["teacher.free_inputs"]
    torch.testing.assert_close(synthetic["inputs"].flatten(0, 1), best, rtol=0, atol=0)

    # Then rank one died in the fifth meta-step, and rank zero was left alone in the middle of a reduction.
    assert 0 not in codes
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
