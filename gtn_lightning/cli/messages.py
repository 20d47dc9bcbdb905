"""Why the parser has refused a recipe, in one line that names the key.

The recipe itself says most of it (`gtn_lightning.cli.faults`), errors of the parser's libraries some. What is left is
the first line of the parser's own text.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from omegaconf.errors import OmegaConfBaseException, UnsupportedInterpolationType

from gtn_lightning.cli.faults import Section, find_fault
from gtn_lightning.cli.policy import foreign
from gtn_lightning.cli.recipes import SUBCOMMANDS
from gtn_lightning.errors import first_line


def explained(error: BaseException, layers: Iterable[Any], root: Section) -> str:
    """Return why the parser has refused a recipe.

    Args:
        error: what the parser has raised.
        layers: the recipes and overrides as plain data, from the weakest to the strongest.
        root: the keys of the command.
    """
    chain = list(causes(error))
    for each in chain:
        if isinstance(each, OmegaConfBaseException) and each.full_key:
            return _of_reference(each)
        if isinstance(each, argparse.ArgumentError) and each.argument_name:
            return f"{each.argument_name.lstrip('-')}: {each.message}"
    fault = None
    with suppress(Exception):  # of this walk, or of a module that the recipe names: the parser's text is better
        fault = find_fault(layers, root)
    if fault is not None:
        return f"{fault.key}: {fault.reason}"
    # The exception has no field for the name.
    for each in chain:
        if denied := re.search(r"Importing '([^']+)' is not allowed", str(each)):
            return foreign("", denied[1])
    lines = [" ".join(line.split()) for line in str(getattr(error, "message", None) or error).splitlines()]
    told = [line for line in lines if line] or [type(error).__name__]
    return " ".join(told[:2]) if told[0].endswith(":") else told[0]  # a key alone says nothing


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_reference(error: OmegaConfBaseException) -> str:
    """Return what is wrong with a reference such as ``${model.inner_loop.steps}``."""
    key = str(error.full_key)
    command, _, rest = key.partition(".")
    key = rest if command in SUBCOMMANDS else key
    what = first_line(error)
    if isinstance(error, UnsupportedInterpolationType):
        return (
            f"{key}: ${{{what.rpartition(' ')[2]}:…}} refers to what is not in the recipe: it is unknown, or not "
            "allowed beside a stranger's file; write the value out"
        )
    return f"{key}: {what}; correct the reference"
