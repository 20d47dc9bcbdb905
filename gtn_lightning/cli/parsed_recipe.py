"""Checks of a recipe as the parser has made it: values that the parser takes and that cannot work."""

import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import torch
from jsonargparse import Namespace
from torch import distributed

from gtn_lightning.callbacks.resumption import begins_with_validation
from gtn_lightning.cli.strict_yaml import check_text
from gtn_lightning.errors import RecipeError


def components(value: Any, key: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the key of every component in a recipe, with its class path and arguments."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from components(item, f"{key}.{number}")
    elif isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield key, value["class_path"], value.get("init_args") or {}
        for name, item in value.items():
            yield from components(item, f"{key}.{name}" if key else name)


def check_recipe(values: dict[str, Any], roots: Mapping[str, type]) -> None:
    """Refuse values that the parser takes and that cannot work.

    Args:
        values: the recipe as it was parsed.
        roots: see `check_kinds`.

    Raises:
        RecipeError: if there is such a value.
    """
    check_values(values)
    check_arguments(values)
    check_kinds(values, roots)


def check_values(values: Any, key: str = "") -> None:
    """Refuse integers of more than 64 bits, and texts that no file can hold.

    Args:
        values: the recipe as it was parsed.
        key: where it stands.

    Raises:
        RecipeError: if an integer has more than 64 bits, or for a text as `check_text` does.
    """
    if isinstance(values, str):
        check_text(key, values)
    if isinstance(values, int) and not -(2**63) <= values < 2**63:
        raise RecipeError(f"{key}: expected an integer of at most 64 bits, got one of {values.bit_length()}")
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list | tuple) else ()
    )
    for name, value in items:
        check_values(value, f"{key}.{name}" if key else str(name))


PLACEHOLDER = re.compile(r"\{[A-Za-z_][\w./-]*(?::[<>^+ ]?\d{0,2}(?:\.\d{1,2})?[a-zA-Z%]?)?\}")
"""What a checkpoint's name may hold for a metric, such as ``{epoch}`` and ``{val/loss:.3f}``."""


def check_arguments(values: dict[str, Any]) -> None:
    """Refuse arguments that Lightning's callbacks and loggers accept, and with which they fail later or run code.

    Args:
        values: the recipe as it was parsed.

    Raises:
        RecipeError: if a checkpoint's name has placeholders for more than metrics, from which Lightning makes what
            Python's ``str.format`` evaluates; if a logger is to write its rows every 0 steps; or if torch has no such
            backend.
    """
    for key, _, arguments in components(values):
        name, every = arguments.get("filename"), arguments.get("flush_logs_every_n_steps")
        if isinstance(name, str) and re.search(r"[{}]", PLACEHOLDER.sub("", name)):
            raise RecipeError(
                f"{key}.init_args.filename: expected placeholders such as {{epoch}} and {{val/loss:.3f}}, got {name!r}"
            )
        backend = arguments.get("process_group_backend")
        if isinstance(backend, str) and backend not in (known := distributed.Backend.backend_list):
            raise RecipeError(
                f"{key}.init_args.process_group_backend: expected one of {', '.join(known)}, got {backend!r}"
            )
        if isinstance(every, int) and every < 1:
            raise RecipeError(f"{key}.init_args.flush_logs_every_n_steps must be at least 1, got {every}")


def check_kinds(values: dict[str, Any], roots: Mapping[str, type]) -> None:
    """Refuse what the parser takes for arguments of this package's classes, against their annotations.

    These are null for what is not optional, and anything but a mapping for settings that all have defaults.

    Args:
        values: the recipe as it was parsed.
        roots: the classes whose arguments stand in the recipe without a class path, by their keys; the key of one whose
            arguments are the recipe is empty.

    Raises:
        RecipeError: if there is such a value.
    """
    named = ((f"{key}.init_args.", path, given) for key, path, given in components(values))
    own = ((key, pkgutil.resolve_name(path), given) for key, path, given in named if path.startswith("gtn_lightning."))
    bare = ((f"{key}." if key else "", cls, values[key] if key else values) for key, cls in roots.items())
    for key, component, arguments in (*bare, *own):
        kinds = get_type_hints(component.__init__)
        for name, value in arguments.items():
            kind = kinds.get(name, Any)
            if value is None and kind is not Any and type(None) not in get_args(kind):
                expected = getattr(kind, "__name__", kind)
                raise RecipeError(f"{key}{name}: null given, expected {expected}; give a value, or leave it out")
            if is_dataclass(kind) and not isinstance(value, Mapping):
                raise RecipeError(f"{key}{name}: expected mapping, got {value!r}; correct the value")


PROCESSES_PER_CORE = 4
"""The most processes of a run per CPU core."""


def check_run(config: Namespace) -> None:
    """Refuse what cannot work in a fit, validation, test or prediction.

    Args:
        config: the recipe as it was parsed.

    Raises:
        RecipeError: if there is such a value.
    """
    trainer = config.trainer
    if config.model.inner_loop.steps < 1:
        # The curriculum would name its own argument.
        raise RecipeError(f"model.inner_loop.steps must be at least 1, got {config.model.inner_loop.steps}")
    seed = config.seed_everything
    if seed is not None and not 0 <= seed < 2**32:
        raise RecipeError(f"seed_everything must lie between 0 and {2**32 - 1}; got {seed}")
    if trainer.val_check_interval == 0:
        raise RecipeError("trainer.val_check_interval must be above 0; to validate never: trainer.limit_val_batches=0")
    if str(trainer.devices) == "0":
        raise RecipeError("trainer.devices must be at least 1, got 0; for a run on the CPU: trainer.accelerator=cpu")
    if config.weights_only is False:
        raise RecipeError("weights_only: expected true, got false: a checkpoint is read without running code in it")
    _reject_oversubscription(trainer)


def check_unfinished(checkpoint: Mapping[str, Any], config: Namespace) -> None:
    """Refuse to go on with a run that has made all of its meta-steps, and the validation after the last.

    Args:
        checkpoint: the checkpoint to go on from.
        config: the recipe as it was parsed.

    Raises:
        RecipeError: if there is nothing left to do.
    """
    done, wanted = checkpoint["global_step"], config.trainer.max_steps
    if 0 <= wanted <= done and not config.trainer.fast_dev_run and not begins_with_validation(checkpoint["loops"]):
        raise RecipeError(
            f"--ckpt_path {config.ckpt_path}: the run is finished, it has made {done} of trainer.max_steps={wanted} "
            "meta-steps; to go on, give a larger --trainer.max_steps"
        )


def _reject_oversubscription(trainer: Namespace) -> None:
    """Refuse to start far more processes than CPU cores: they are all started before anything goes wrong."""
    devices = trainer.devices
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
    most = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    if on_cpu and isinstance(devices, int) and devices > most:
        raise RecipeError(
            f"trainer.devices must be at most {most} on the CPU of this machine, {PROCESSES_PER_CORE} processes for "
            f"every core; got {devices}: one per core is fastest"
        )
