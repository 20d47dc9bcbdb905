"""Whose error it is: the user's own code's, Lightning's, or that of a component and its arguments."""

import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from gtn_lightning.cli.parsed_recipe import components
from gtn_lightning.cli.upstream_privates import CHECKPOINT_CONNECTOR
from gtn_lightning.errors import first_line


def is_lightnings(error: BaseException) -> bool:
    """Return whether an error was raised by Lightning, about the trainer's arguments."""
    names = _modules(error)
    return bool(names) and names[-1].startswith(("pytorch_lightning.", "lightning_fabric."))


LIBRARIES = frozenset(
    {
        *("gtn_lightning", "jsonargparse", "lightning_fabric", "lightning_utilities", "numpy", "omegaconf"),
        *("pytorch_lightning", "torch", "torchmetrics", "torchvision"),
        *sys.stdlib_module_names - {"__main__"},
    }
)
"""Packages whose errors are about the recipe's values, as long as no other package is in the traceback."""


def is_own_code(error: BaseException) -> bool:
    """Return whether the user's own code has raised an error, or code that it called."""
    return any(name.partition(".")[0] not in LIBRARIES for name in _modules(error))


def is_of_callback(error: BaseException) -> bool:
    """Return whether one of Lightning's callbacks raised an error, such as for a metric that nobody logs."""
    names = _modules(error)
    return bool(names) and names[-1].startswith("pytorch_lightning.callbacks.")


def is_restoring(error: BaseException) -> bool:
    """Return whether an error was raised while Lightning restored a checkpoint."""
    return CHECKPOINT_CONNECTOR in _modules(error)


def _modules(error: BaseException) -> list[str]:
    """Return the modules that an error came through, the outermost first; code without a module is torch's."""
    return [frame.f_globals.get("__name__") or "torch" for frame, _ in traceback.walk_tb(error.__traceback__)]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, on the host or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and re.search("can't allocate memory|out of memory", str(error)) is not None


LARGE = 1_000_000
"""Numbers from here on may be a size that is too large."""


def wanted_memory(error: Exception) -> str:
    """Return how much memory was asked for, or the first line of the error where that is not said."""
    found = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return found[0].lower().replace("gib", "GiB").replace("mib", "MiB") if found else first_line(error)


def component_of(error: BaseException, values: dict[str, Any]) -> str | None:
    """Return the key of the component or argument that could not be made, None if the error has another cause.

    Args:
        error: what was raised.
        values: the recipe as it was parsed.
    """
    places: dict[str, list[tuple[str, dict[str, Any]]]] = {"gtn_lightning.module.GTN": [("model", values["model"])]}
    places["pytorch_lightning.trainer.trainer.Trainer"] = [("trainer", values["trainer"])]
    for key, path, arguments in components(values):
        with suppress(ImportError, AttributeError, ValueError):
            cls = pkgutil.resolve_name(path)
            places.setdefault(f"{cls.__module__}.{cls.__qualname__}", []).append((f"{key}.init_args", arguments))
    found = f"trainer{_suspect(values['trainer'], error)}" if is_lightnings(error) else None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        cls = type(frame.f_locals.get("self"))
        if frame.f_code.co_name == "__init__" and (there := places.get(f"{cls.__module__}.{cls.__qualname__}")):
            key, arguments = there[0]
            found = f"{key}{_suspect(arguments, error)}"
    return found


def _suspect(arguments: dict[str, Any], error: BaseException) -> str:
    """Return a dot and the name of the one argument that an error can be about, or nothing."""
    # Torch names the size that it refuses, or nothing that helps.
    words = set(re.findall(r"'[^']*'|-?[\w.]+", str(error)))
    named = [name for name, value in arguments.items() if words & set(_telling_parts(value))]
    large = [name for name, value in arguments.items() if any(size >= LARGE for size in _sizes(value))]
    suspects = named if len(named) == 1 else large
    return f".{suspects[0]}" if len(suspects) == 1 else ""


def _telling_parts(value: Any) -> Iterator[str]:
    """Yield the parts of a value by which an error would show it: large numbers, and names in a mapping."""
    if isinstance(value, dict):
        yield from (repr(name) for name in value.keys() - {"class_path", "init_args"})
    elif not isinstance(value, str):
        yield from (str(size) for size in _sizes(value) if size > 99)


def _sizes(value: Any) -> Iterator[int | float]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _sizes(item)
    elif isinstance(value, int | float):
        yield value
