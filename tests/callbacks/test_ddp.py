"""The callbacks on two processes: rank zero alone writes, and a rank that dies takes no meta-step with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


@pytest.mark.slow
def test_two_processes_leave_what_one_would(tmp_path):
    folder = tmp_path / "run"
    script = Path(__file__).with_name("ddp_run.py")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(script.parent), *sys.path]),
        "WANDB_SILENT": "true",  # or W&B has the last word, when the process ends
    }
    environment.pop("WANDB_MODE", None)
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "4 steps, rank 0 done" in done.stderr, done.stderr
    assert done.stdout.count("meta-step 3/3") == 1
    assert [line for line in done.stdout.splitlines() if line][-1] == f"run folder: {folder}"

    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        "learning_curve.png",
        "samples.png",
    ]
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert not list(folder.rglob("*.part"))
    # Each process made two of the four steps; image i of the pool is of class i modulo 10.
    synthetic = load_file(folder / "synthetic.safetensors")
    best = torch.load(folder / "checkpoints/best-3.ckpt", weights_only=True)["state_dict"]["teacher.pixels"]
    torch.testing.assert_close(synthetic["inputs"].flatten(0, 1), best, rtol=0, atol=0)

    # Then rank one died in the fifth meta-step, and rank zero was left alone in the middle of a reduction.
    assert done.returncode != 0
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
