"""Run folders and the checkpoints in them."""

import os
import pickle
import time
from pathlib import Path
from typing import Any

import torch

from gtn_lightning.errors import RecipeError

RUN_FOLDER = "GTN_RUN_FOLDER"
"""Environment variable by which the processes that DDP starts learn the run folder."""


def choose_run_folder(base: Path) -> Path:
    """Return a folder of its own for this run; nothing is created yet: a faulty recipe leaves nothing behind."""
    inherited = os.environ.get(RUN_FOLDER)
    if inherited and "LOCAL_RANK" in os.environ:
        return Path(inherited)
    job = os.environ.get("SLURM_JOB_ID")
    name = f"slurm-{job}" if job else time.strftime("%Y%m%d-%H%M%S")
    if job and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        return base / name  # requeued: Lightning finds there what it saved before
    folder, number = base / name, 1
    while folder.exists():
        number += 1
        folder = base / f"{name}-{number}"
    os.environ[RUN_FOLDER] = str(folder)
    return folder


def newest_checkpoint(base: Path) -> Path:
    """Return the checkpoint of the latest run in a folder of runs."""
    found = sorted(base.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RecipeError(
            f"--ckpt_path last: there is no checkpoint under {base}; give the path of one, or start without"
        )
    return found[-1]


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint before anything is made, and refuse what is none in one line."""
    if not Path(path).is_file():
        raise RecipeError(f"--ckpt_path {path}: there is no such file; give the path of a checkpoint, or last")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or ["empty"])[0][:80]
        raise RecipeError(
            f"--ckpt_path {path}: is no complete checkpoint ({reason}); give one that `gtn fit` wrote "
            "(a teacher file goes to --teacher)"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise RecipeError(f"--ckpt_path {path}: is no Lightning checkpoint; give one that `gtn fit` wrote")
    return checkpoint
