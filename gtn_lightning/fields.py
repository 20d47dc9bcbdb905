"""Fields: the named tensors of a batch of synthetic data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from gtn_lightning.component import Component
from gtn_lightning.errors import RecipeError

Batch = dict[str, Tensor]
"""Named tensors, each ``[B, *shape]``."""

KINDS = ("real", "classes", "probabilities")
"""Kinds of values in a field."""

T = TypeVar("T")


@dataclass(frozen=True)
class Field(Component):
    """The type of a named tensor in a batch, made by a teacher or taken by a task.

    Args:
        kind: ``real`` numbers; ``classes``, int64; or ``probabilities`` of classes, which sum to 1.
        shape: shape of one sample, ``()`` for a number; None for any. Only for the kind ``real``.
        classes: number of classes, only for the kinds ``classes`` and ``probabilities``.

    Raises:
        RecipeError: if a value is out of range or does not belong to the kind.

    Examples:
        >>> from gtn_lightning.fields import Field
        >>> Field("real", (1, 28, 28)).sample_shape
        (1, 28, 28)
        >>> Field("classes", classes=10).classes
        10
    """

    kind: Literal["real", "classes", "probabilities"] = "real"
    shape: tuple[int, ...] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RecipeError(f"Field: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(self.shape))  # a list, if it comes from a file
            if any(size < 1 for size in self.shape):
                raise RecipeError(f"Field: shape must consist of numbers of at least 1, got {list(self.shape)}")
        if (self.kind == "real") != (self.classes is None):
            raise RecipeError(
                f"Field: a field of kind {self.kind} must have {'no' if self.classes else 'a number of'} classes, got "
                f"{self.classes}"
            )
        if self.classes is not None and self.classes < 2:
            raise RecipeError(f"Field: classes must be at least 2, got {self.classes}")
        if self.classes is not None and self.shape:
            raise RecipeError(f"Field: a field of kind {self.kind} must have no shape, got {list(self.shape)}")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, for every kind.

        Raises:
            RecipeError: if the field is of kind ``real`` and has no shape.
        """
        if self.kind == "probabilities":
            assert self.classes is not None
            return (self.classes,)
        if self.kind == "classes":
            return ()
        if self.shape is None:
            raise RecipeError("Field: the shape of a real field must be given here")
        return self.shape

    def __str__(self) -> str:
        if self.kind == "real":
            return "real numbers" if self.shape is None else f"real numbers of shape {list(self.shape)}"
        return f"{'' if self.kind == 'classes' else 'probabilities of '}{self.classes} classes"


Fields = dict[str, Field]
"""The fields of a batch by name, in the order in which an inner loss takes them."""


def restored(fields: Mapping[str, Any]) -> Fields:
    """Return fields of which some may be plain data, as in a teacher file."""
    return {name: field if isinstance(field, Field) else Field(**field) for name, field in fields.items()}


def number_of_classes(fields: Fields) -> int | None:
    """Return the number of classes of the first field that has any, None if there is none."""
    return next((field.classes for field in fields.values() if field.classes), None)


def chosen(batch: Batch, fields: Fields) -> list[Tensor]:
    """Return the fields of a batch in the order in which an inner loss takes them.

    Raises:
        RecipeError: if one is missing.
    """
    if missing := [name for name in fields if name not in batch]:
        raise RecipeError(
            f"model.teacher makes a batch of {', '.join(batch)}, but model.task takes {', '.join(fields)}: it lacks "
            f"{', '.join(missing)}"
        )
    return [batch[name] for name in fields]


def given(value: T | None, key: str) -> T:
    """Check that an argument has a value, which a recipe may take from its task or inner loop, and return it.

    Args:
        value: the value.
        key: the component's and the argument's name, such as ``Full.steps``.

    Raises:
        RecipeError: if it is None.
    """
    if value is None:
        raise RecipeError(f"{key} must be given, here or in the recipe's task or inner loop, got none")
    return value


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: names in order, types, shapes and values, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
