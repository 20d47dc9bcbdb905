"""Recipes from strangers: which classes they may name.

A recipe names classes, and a class is code: to read one is to import its module. With ``--trusted-only`` a recipe is
looked through before anything of it is imported.
"""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from gtn_lightning.errors import RecipeError

OPTION = "--trusted-only"

TRUSTED = ("gtn_lightning.", "pytorch_lightning.", "lightning.", "torch.optim.")
"""Where classes may come from: this package, Lightning, and torch's optimizers and their schedules."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_REFERENCE = re.compile(r"\$\{[\w.]+\}")


def reject_untrusted(arguments: Sequence[str]) -> None:
    """Refuse a command line that names code from elsewhere, in a recipe or an override.

    Args:
        arguments: the command line with the recipes' paths.

    Raises:
        RecipeError: if a value names something importable that is not trusted, or is put together in a way that cannot
            be seen through.
    """
    for argument in arguments:
        for text in _texts(argument.partition("=")[2] if argument.startswith("--") else argument, set()):
            _reject(text)


def _texts(value: Any, seen: set[str]) -> Iterator[str]:
    """Yield every text in a value, and in the files that texts name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key, seen)
            yield from _texts(item, seen)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, seen)
    elif isinstance(value, str):
        yield value.strip()
        if value in seen:
            return
        seen.add(value)
        content: Any = None
        with suppress(OSError, ValueError, yaml.YAMLError):
            content = yaml.safe_load(Path(value).read_text() if Path(value).is_file() else value)
        if isinstance(content, dict | list):
            yield from _texts(content, seen)


def _reject(text: str) -> None:
    if "${" in text and not _REFERENCE.fullmatch(text):
        raise RecipeError(
            f"{OPTION}: {text!r} is put together when it is read; only whole references such as ${{model.inner_steps}} "
            "are allowed: write the value out"
        )
    if not _DOTTED.fullmatch(text) or text.startswith(TRUSTED):
        return
    known = None
    with suppress(ImportError, ValueError):
        known = importlib.util.find_spec(text.partition(".")[0])
    if known is not None:
        raise RecipeError(
            f"{OPTION}: {text} is code from elsewhere; allowed are {', '.join(f'{name}*' for name in TRUSTED)}: read "
            f"it, and leave {OPTION} out if you trust it"
        )
