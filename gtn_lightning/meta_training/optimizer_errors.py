"""Values that torch's optimizers and schedules refuse, reported by the key of the recipe."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from gtn_lightning.errors import RecipeError, one_line

REFUSALS = (ValueError, TypeError, RuntimeError, ArithmeticError)
"""Errors by which torch's optimizers and schedules refuse a value. Others are bugs and keep their traceback."""


def named(key: str, factory: Callable[..., Any], make: Callable[[], Any]) -> Any:
    """Return ``make()``.

    Args:
        key: the key of the factory, such as ``model.outer_optimizer``.
        factory: the factory whose arguments may be refused.
        make: calls the factory, or what it made.

    Raises:
        RecipeError: if a value is refused; the message names its key.
    """
    try:
        return make()
    except REFUSALS as error:
        reason = one_line(error)
        arguments = factory.keywords if isinstance(factory, partial) else {}
        refused = [name for name, value in arguments.items() if _mentions(reason, value)]
        place = f"{key}.init_args.{refused[0]}" if len(refused) == 1 else key
        # A factory from a recipe holds its class among its arguments.
        parts = (factory.func, *factory.args) if isinstance(factory, partial) else (factory,)
        name = next((f"{part.__name__}: " for part in parts if inspect.isclass(part)), "")
        raise RecipeError(f"{place}: {name}{reason}; correct the value") from error


def _mentions(reason: str, value: Any) -> bool:
    """Return whether a message contains a value, or one of the numbers in it."""
    numbers = [
        item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, int | float)
    ]
    return any(re.search(rf"(?<![\w.-]){re.escape(str(number))}(?![\w.])", reason) for number in numbers)
