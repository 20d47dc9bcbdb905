"""Reads and checks checkpoints, so that invalid contents are found before a run starts."""

import math
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError, first_line, one_line
from gtn_lightning.lightning import PACKAGES, ModelCheckpoint, pl
from gtn_lightning.trust import Trusted, check

VERSION = "pytorch-lightning_version"
"""Lightning's key for its version."""

NEEDED = ("global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What a resumed run needs besides the state of the module."""

MAX_STEPS = 10**8
"""Limit of meta-steps; schedules are advanced step by step."""

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""The files in the state of a `ModelCheckpoint`, which it may remove."""


class CheckpointError(RecipeError):
    """Something in a checkpoint is missing or invalid."""


class UnreadableError(CheckpointError):
    """A file is no checkpoint, or is damaged."""


def check_state_dict(checkpoint: Any) -> None:
    """Check that a value is a Lightning checkpoint that holds the state of a module.

    Args:
        checkpoint: the content of the file.

    Raises:
        CheckpointError: if it is not.
    """
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError("it is no Lightning checkpoint")
    if not re.match(r"\d+\.\d+", str(checkpoint.get(VERSION))):
        raise CheckpointError("it does not say which version of Lightning wrote it")
    state = checkpoint["state_dict"]
    if not state:
        raise CheckpointError("its state_dict is empty")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"state_dict.{name}: expected a tensor, got a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"state_dict.{name}: expected a dense tensor of real numbers, got {tensor.type()}")


def read_whole(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, read without running pickled code.

    Raises:
        UnreadableError: if the file is no checkpoint, or is damaged.
        CheckpointError: if it is no Lightning checkpoint with the state of a module, or a checksum is wrong.
        OSError: if it cannot be read.
    """
    with open(path, "rb"):  # so that errors below are about the content
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other archives, which are refused below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        check_state_dict(checkpoint)
        # Torch does not check the checksums that it writes.
        if torch.serialization.get_crc32_options() and (part := zipfile.ZipFile(path).testzip()) is not None:
            raise CheckpointError(f"it is damaged, in {part}")
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes may raise almost anything
        raise UnreadableError(first_line(error)[:80]) from error
    return dict(checkpoint)


def read_module(path: str | Path, trust: Trusted) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description of the module that a checkpoint was saved with, and its state.

    Args:
        path: the checkpoint.
        trust: classes that it may name besides this package's, or names of them or of their modules.

    Raises:
        RecipeError: if it is no checkpoint of a GTN, is damaged, or names a class that is not allowed.
    """
    try:
        checkpoint = read_whole(path)
    except OSError as error:
        raise RecipeError(one_line(error)) from error
    except UnreadableError as error:
        raise RecipeError(
            f"{path}: expected a checkpoint, got another or a damaged file ({error}): take a whole one"
        ) from error
    except CheckpointError as error:
        raise RecipeError(f"{path}: {error}") from error
    hyperparameters = checkpoint.get("hyper_parameters")
    description = hyperparameters.get("model") if isinstance(hyperparameters, Mapping) else None
    if not isinstance(description, dict):
        raise RecipeError(f"{path}: it does not say what it was made with: build the GTN and load its state_dict")
    check(description, str(path), trust)
    return description, checkpoint["state_dict"]


def check_progress(checkpoint: Mapping[str, Any], trainer: pl.Trainer | None = None) -> None:
    """Check that a checkpoint holds what a resumed run needs.

    Args:
        checkpoint: a Lightning checkpoint.
        trainer: the trainer of the resumed run, for the counts of its loops. A checkpoint of another version of
            Lightning is not compared with it.

    Raises:
        CheckpointError: if it does not.
    """
    missing = [name for name in NEEDED if name not in checkpoint]
    if missing:
        why = ", as if saved with save_weights_only=True" if "optimizer_states" in missing else ""
        raise CheckpointError(f"it does not hold {', '.join(missing)}{why}")
    step = checkpoint["global_step"]
    if not is_count(step):
        raise CheckpointError(f"global_step: expected a number of meta-steps, got {shown(step)}")
    if step > MAX_STEPS:
        raise CheckpointError(f"global_step: expected at most {MAX_STEPS} meta-steps, got {step}")
    for name, kind in (("loops", dict), ("callbacks", dict), ("optimizer_states", list), ("lr_schedulers", list)):
        value = checkpoint[name]
        if not isinstance(value, kind):
            raise CheckpointError(f"{name}: expected a {kind.__name__}, got {shown(value)}")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if not isinstance(item, dict):
                raise CheckpointError(f"{name}.{key}: expected a dict, got {shown(item)}")
    for name, state in checkpoint["callbacks"].items():
        if "best_k_models" in state:
            if fault := misfit_of_files(state, f"callbacks.{_kind(name)}"):
                raise CheckpointError(fault)
            for path in kept_files(state):
                if _leads_out(path, trainer):
                    raise CheckpointError(
                        f"callbacks.{name}: expected the path of a file of the run, got {shown(path)}"
                    )
    for callback in [] if trainer is None else trainer.callbacks:  # type: ignore[attr-defined]
        given = checkpoint["callbacks"].get(callback.state_key)
        if given is None or not type(callback).__module__.startswith(f"{PACKAGES[0]}."):
            continue
        if fault := misfit(given, callback.state_dict(), f"callbacks.{_kind(callback.state_key)}", whole=False):
            raise CheckpointError(fault)
    if trainer is not None and checkpoint[VERSION] == pl.__version__:
        loops = {"fit_loop": trainer.fit_loop.state_dict()}
        if fault := misfit(checkpoint["loops"], loops, "loops", counts=True):
            raise CheckpointError(fault)


def check_kept_files(trainer: pl.Trainer) -> None:
    """Check that every `ModelCheckpoint` will only remove files of the checkpoint's run.

    A restored one removes the files below its folder that its state names, when there are better ones.

    Args:
        trainer: the trainer of a resumed run, with its callbacks restored.

    Raises:
        CheckpointError: if one of the files exists and is not the run's.
    """
    folder, name = os.path.split(os.path.realpath(trainer.ckpt_path or ""))
    is_requeued = name.startswith("hpc_ckpt") and folder == os.path.realpath(trainer.default_root_dir)
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
            continue
        own = os.path.realpath(callback.dirpath)
        # For a job that SLURM restarts, Lightning keeps the checkpoint in the run folder.
        is_beside = is_requeued or folder == own
        for path in sorted(map(os.path.abspath, kept_files(callback.state_dict()))):
            if not os.path.lexists(path) or Path(callback.dirpath).absolute() not in Path(path).parents:
                continue
            is_file = os.path.isfile(path) and not os.path.islink(path)
            if not is_file or not is_beside or os.path.realpath(os.path.dirname(path)) != own:
                raise CheckpointError(
                    f"{type(callback).__name__}: {path} exists and is no file of the checkpoint's run"
                )


def kept_files(state: Mapping[str, Any]) -> list[Any]:
    """Return the files that the state of a `ModelCheckpoint` names."""
    return [path for path in (*state["best_k_models"], *(state[name] for name in PATHS)) if path != ""]


def _kind(state_key: Any) -> str:
    """Return the class of a callback from the name of its state, which also holds some arguments."""
    return str(state_key).partition("{")[0]


def misfit_of_files(state: Any, place: str) -> str | None:
    """Return what is wrong with the files and scores in the state of a `ModelCheckpoint`, or None.

    Args:
        state: its state.
        place: the name of the state.
    """
    if fault := misfit(state, dict.fromkeys((*PATHS, "dirpath"), "") | {"best_k_models": {}}, place):
        return fault
    for path in kept_files(state):
        if not isinstance(path, str) or not path.endswith(ModelCheckpoint.FILE_EXTENSION):
            return f"{place}: expected the path of a checkpoint, got {shown(path)}"
    # There is no score before the first validation.
    scores = {name: state.get(name) for name in ("best_model_score", "kth_value")} | state["best_k_models"]
    return next(
        (
            f"{place}.{name}: expected a score, got {shown(score)}"
            for name, score in scores.items()
            if score is not None and not (isinstance(score, Tensor) and is_number(score))
        ),
        None,
    )


def _leads_out(path: str, trainer: pl.Trainer | None) -> bool:
    """Return whether a path is an address, other than the trainer's own, or leaves the folder it starts with."""
    parts = path.replace("\\", "/").split("/")
    folders = [str(getattr(each, "dirpath", "")) for each in (trainer.checkpoint_callbacks if trainer else ())]
    is_own = any("://" in folder and path.startswith(f"{folder}/") for folder in folders)
    return ".." in parts or (("://" in path or "::" in path) and not is_own)


def misfit(given: Any, template: Any, place: str, counts: bool = False, whole: bool = True) -> str | None:
    """Return how a value differs in kind from a template, or None if it is of the same kind.

    Args:
        given: the value, as plain data; entries beyond the template are not checked.
        template: a value of the expected kind.
        place: the name of the value.
        counts: whether integers must be 0 or more.
        whole: whether mappings must have all keys of the template.
    """
    if isinstance(template, Mapping):
        if not isinstance(given, Mapping):
            return f"{place}: expected a mapping, got {shown(given)}"
        for name, item in template.items():
            if name in given:
                if fault := misfit(given[name], item, f"{place}.{name}", counts, whole):
                    return fault
            elif whole:
                return f"{place}.{name}: it is missing"
        return None
    if isinstance(template, Tensor):
        if isinstance(given, Tensor) and given.shape == template.shape:
            return None
        return f"{place}: expected a tensor of shape {list(template.shape)}, got {shown(given)}"
    if isinstance(template, list | tuple):
        if not isinstance(given, list | tuple):
            return f"{place}: expected a list, got {shown(given)}"
        if len(given) != len(template):
            return f"{place}: expected {len(template)} values, got {len(given)}"
        items = enumerate(zip(given, template, strict=True))
        return next(
            (fault for n, (one, other) in items if (fault := misfit(one, other, f"{place}.{n}", counts, whole))), None
        )
    if isinstance(template, bool | str):
        expected = "true or false" if isinstance(template, bool) else "a text"
        return None if isinstance(given, type(template)) else f"{place}: expected {expected}, got {shown(given)}"
    if counts and isinstance(template, int):
        return None if is_count(given) else f"{place}: expected a number of steps, got {shown(given)}"
    if isinstance(template, int | float) and not is_number(given):
        return f"{place}: expected a number, got {shown(given)}"
    return None


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of 0 or more that fits into int64."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """Return whether a value is a number, possibly infinite."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and not math.isnan(value)
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and not math.isnan(value)


def shown(value: Any) -> str:
    """Return a value in a short form for errors, on one line."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
