"""The kinds of values in a description.

Values that JSON does not have are written with their kind, as ``{"$path": "data/mnist"}``. The kinds are a closed set.
"""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from gtn_lightning.component import Component

BUILDABLE: tuple[type, ...] = (nn.Module, Component)
"""Base classes of what a description may name: a file from elsewhere cannot name an arbitrary callable."""

COMPONENT = {"class_path", "init_args"}
"""The keys of a described component."""

TORCH: dict[str, Any] = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format)
}
"""Torch's constants by their names."""


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return value


def _range(ends: Any) -> range:
    made = range(*as_list(ends))
    if len(made) > MAX_RANGE:
        raise ValueError(f"expected at most {MAX_RANGE} numbers")
    return made


MAX_RANGE = 1_000_000
"""Maximum length of a range in a description."""

READERS: dict[str, Callable[[Any], Any]] = {
    "$float": lambda text: float(as_text(text)),
    "$complex": lambda text: complex(as_text(text)),
    "$bytes": lambda text: base64.b64decode(as_text(text), validate=True),
    "$path": lambda text: Path(as_text(text)),
    "$device": lambda text: torch.device(as_text(text)),
    "$torch": lambda text: TORCH[text],
    "$range": _range,
    "$list": as_list,
    "$tuple": lambda items: tuple(as_list(items)),
    "$set": lambda items: set(as_list(items)),
    "$frozenset": lambda items: frozenset(as_list(items)),
}
"""Make a value from its description, for every kind that holds no components."""

KINDS = (*READERS, "$dict", "$enum", "$class", "$partial", "$built")


def kind_of(description: Mapping[str, Any]) -> str | None:
    """Return the kind of a described value, None for an ordinary dictionary."""
    only = next(iter(description)) if len(description) == 1 else None
    return only if only in KINDS else None


def annotated(cls: type, name: str) -> list[Any]:
    """Return the types in the annotation of a constructor's argument, without their type arguments."""
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        try:
            hints = get_type_hints(init)
        except (TypeError, NameError, AttributeError):  # annotated by a name that is imported for type checkers only
            continue
        if name in hints:
            hint = hints[name]
            options = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
            return [get_origin(option) or option for option in options]
    return []
