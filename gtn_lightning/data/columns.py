"""The columns of a table as numbers."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MAX_CATEGORIES = 100
"""A text column with more different values than this holds names or row numbers, not categories."""

MAX_CLASSES = 1000
"""A target with more different whole numbers than this holds amounts, not classes."""

CONSTANT = 1e-9
"""A column counts as constant if it deviates by less than this share of its largest value, which rounding can do."""


class Inputs(NamedTuple):
    """Encoded columns."""

    values: Tensor
    """float64 ``[N, D]``."""
    names: list[str]
    """The name of each value of a row."""
    numeric: Tensor
    """Which of them are numbers, rather than categories, bool ``[D]``."""


class Targets(NamedTuple):
    """Encoded targets."""

    values: Tensor
    """Classes, int64 ``[N]``, or numbers, float64 ``[N, K]``."""
    classes: list[Any] | None
    """The values that the classes stand for; None for numbers."""


def check_columns(frame: "DataFrame", target: Sequence[Any], ignore: Sequence[Any], source: str) -> None:
    """Check that the columns of a table can be told apart and have all their values.

    Args:
        frame: the table.
        target: the columns to predict.
        ignore: the columns to leave out.
        source: the name of the table in errors.

    Raises:
        RecipeError: if not.
    """
    names = list(frame.columns)
    if not frame.columns.is_unique:
        twice = next(name for name in names if names.count(name) > 1)
        raise RecipeError(f"data.path: {source} has several columns {twice!r}: rename them")
    for key, chosen in (("target", target), ("ignore", ignore)):
        for name in chosen:
            if name not in names:
                raise RecipeError(
                    f"data.{key}: {source} has no column {name!r}; it has {', '.join(map(str, names))}"
                    + ("; is it separated by commas?" if len(names) == 1 and source.endswith(".csv'") else "")
                )
    if both := [name for name in target if name in ignore]:
        raise RecipeError(f"data.ignore must not name the target, got {both[0]!r}")
    for name in names:
        if name not in ignore and (missing := int(frame[name].isna().sum())):
            raise RecipeError(
                f"data.path: {source}: the column {name!r} has {missing} of {len(frame)} values missing: fill them in, "
                "drop these rows, or name the column in data.ignore"
            )
        if name not in (*ignore, *target) and _counts(frame[name]):
            numbered = f"{source}: the column {name!r} numbers the rows"
            if str(name).startswith("Unnamed: "):
                raise RecipeError(f"data.path: {numbered}, as pandas writes them: set data.ignore to {str(name)!r}")
            warnings.warn(
                f"{numbered}, and is an input: to leave it out, set data.ignore to {str(name)!r}", stacklevel=3
            )


def encode_inputs(frame: "DataFrame", source: str) -> Inputs:
    """Return numeric columns as they are, and one column of zeros and ones for every value of the others.

    Args:
        frame: the table, inputs alone.
        source: its name in errors.

    Raises:
        RecipeError: if a column holds neither numbers nor categories.
    """
    parts: list[Tensor] = []
    names: list[str] = []
    numeric: list[bool] = []
    for name in frame.columns:
        column = frame[name]
        if _is_numeric(column):
            parts.append(_numbers(column)[:, None])
            names.append(str(name))
            numeric.append(True)
            continue
        _check_category(column, source)
        codes, values = _codes(column, source)
        if len(values) > MAX_CATEGORIES:
            raise RecipeError(
                f"data.path: {source}: the column {name!r} has {len(values)} different values, expected at most "
                f"{MAX_CATEGORIES} categories: name it in data.ignore, or convert it to numbers"
            )
        parts.append(F.one_hot(codes, len(values)).double())
        names += [f"{name}={value}" for value in values]
        numeric += [False] * len(values)
    if not parts:
        raise RecipeError(f"data.path: {source} has no columns to predict from")
    inputs = torch.cat(parts, dim=1)
    _check_finite(inputs, names, source)
    return Inputs(inputs, names, torch.tensor(numeric))


def encode_targets(frame: "DataFrame", predicts: str, source: str) -> Targets:
    """Return the target as classes or as numbers.

    Args:
        frame: the table, targets alone.
        predicts: ``classes``, ``numbers`` or ``auto``, see `TableData`.
        source: its name in errors.

    Raises:
        RecipeError: if it can be neither.
    """
    from pandas.api import types

    first = frame.iloc[:, 0]
    numbers = all(_is_numeric(frame[name]) for name in frame.columns)
    if predicts == "numbers" or (predicts == "auto" and numbers and not types.is_integer_dtype(first)):
        if not numbers:
            raise RecipeError(f"data.predicts is numbers, but the column {first.name!r} of {source} has none")
        values = torch.stack([_numbers(frame[name]) for name in frame.columns], dim=1)
        _check_finite(values, list(map(str, frame.columns)), source)
        for name, column in zip(frame.columns, values.unbind(1), strict=True):
            if (column == column[0]).all():
                raise RecipeError(f"data.target: the column {name!r} of {source} is {float(column[0]):g} in every row")
        return Targets(values, None)
    if len(frame.columns) > 1:
        raise RecipeError(
            f"data.target: expected one column of classes, got {len(frame.columns)}; for several numeric columns, "
            "set data.predicts=numbers"
        )
    codes, classes = _codes(first, source)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise RecipeError(
            f"data.target: the column {first.name!r} of {source} has {len(classes)} values, expected 2 to "
            f"{MAX_CLASSES} classes; for amounts, set data.predicts=numbers"
        )
    return Targets(codes, classes)


def statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every column, ``[D]`` each, with 1 for the deviation of a constant column.

    Args:
        values: ``[N, D]``.
    """
    std = values.std(dim=0, correction=0)
    return values.mean(dim=0), torch.where(std > CONSTANT * values.abs().amax(dim=0), std, 1.0)


def _is_numeric(column: "Series[Any]") -> bool:
    from pandas.api import types

    return (
        types.is_numeric_dtype(column)
        and not types.is_bool_dtype(column)
        and not types.is_complex_dtype(column)
        and column.dtype.name != "category"
    )


def _numbers(column: "Series[Any]") -> Tensor:
    return torch.from_numpy(column.to_numpy(np.float64).copy())


def _counts(column: "Series[Any]") -> bool:
    """Return whether a column counts the rows from 0 or 1."""
    return _is_numeric(column) and column.tolist() in (list(range(len(column))), list(range(1, len(column) + 1)))


def _check_category(column: "Series[Any]", source: str) -> None:
    """Raise ``RecipeError`` if a column holds times, complex numbers, or numbers among which something else stands."""
    import pandas
    from pandas.api import types

    where = f"data.path: {source}: the column {column.name!r}"
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        raise RecipeError(f"{where} holds times: convert them to numbers, or name the column in data.ignore")
    if types.is_complex_dtype(column):
        raise RecipeError(f"{where} holds complex numbers: convert them to real ones, or name it in data.ignore")
    if types.is_bool_dtype(column) or column.dtype.name == "category":
        return
    numbers = pandas.to_numeric(column.map(str), errors="coerce")
    if 2 * int(numbers.notna().sum()) > len(column):
        odd = sorted(set(map(str, column[numbers.isna()])))[:3]
        reason = f"numbers, but also {', '.join(map(repr, odd))}" if odd else "numbers as text"
        raise RecipeError(f"{where} holds {reason}: correct it, or name it in data.ignore")


def _codes(column: "Series[Any]", source: str) -> tuple[Tensor, list[Any]]:
    """Return the index of every value among the sorted different values, int64 ``[N]``, and these values."""
    try:
        values = sorted(set(column.tolist()), key=lambda value: (str(type(value)), value))
    except TypeError as error:
        raise RecipeError(
            f"data.path: {source}: the column {column.name!r} holds values that are neither numbers nor text: convert "
            "it, or name it in data.ignore"
        ) from error
    codes = {value: code for code, value in enumerate(values)}
    return torch.tensor([codes[value] for value in column.tolist()], dtype=torch.int64), values


def _check_finite(values: Tensor, names: list[str], source: str) -> None:
    for name, column in zip(names, values.unbind(1), strict=True):
        if wrong := int((~column.isfinite()).sum()):
            raise RecipeError(
                f"data.path: {source}: the column {name!r} has {wrong} of {len(column)} values that are infinite: "
                "correct them, or name the column in data.ignore"
            )
