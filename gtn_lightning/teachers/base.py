"""What every teacher is: a module that turns a curriculum's requests into batches of training data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, Fields, given


class TeacherInput(NamedTuple):
    """What a curriculum asks of the teacher for one inner step."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """Which samples of the pool are meant, int64 ``[B]``; without a pool, arbitrary numbers."""
    labels: Tensor | None
    """The class asked for, int64 ``[B]``; None for data without classes."""
    noise: Tensor | None
    """The teacher's noise, float ``[B, noise]``; None for a teacher that takes none."""


class Teacher(nn.Module, ABC):
    """Base class of teachers.

    A teacher of one's own sets ``fields`` and implements ``forward``, and ``batches`` only where a whole inner loop's
    data can be made more cheaply than batch by batch. It stores its constructor's arguments under their own names, so
    that a teacher file can describe it.

    Attributes:
        fields: what it makes, which has to be what the task takes; empty for what the data decides.
        noise: size of the noise vector it takes per sample, 0 for none.
        pool: number of samples it holds, or None if it makes as many different ones as it is asked for.
    """

    fields: Fields = {}  # noqa: RUF012  # never changed in place
    noise: int = 0
    pool: int | None = None

    @abstractmethod
    def forward(self, request: TeacherInput) -> Batch:
        """Make one inner batch.

        Args:
            request: what the curriculum asks for.

        Returns:
            A tensor ``[B, ...]`` for each field. Where samples are made for classes, these may stand beside them
            under ``labels``, int64 ``[B]``, for pictures and files.
        """

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        """Make the batches of an inner loop, one per request, each when it is asked for.

        Every batch is a chunk of its own that keeps no activations: the backward pass runs the teacher again, batch
        by batch, so that memory does not grow with the teacher's activations over all inner steps.
        """
        for request in requests:
            if torch.is_grad_enabled():
                yield checkpoint(self, request, use_reentrant=False)
            else:
                yield self(request)

    def attach(self, real: Batch) -> None:
        """Receive real training data; called before training and before every evaluation.

        Most teachers have no use for it.

        Args:
            real: the fields of real data, as the learner is to see them. Targets may be probabilities where the task
                takes classes.
        """
        return


def image_fields(name: str, image_shape: Sequence[int] | None, classes: int | None) -> Fields:
    """Return the fields of labeled images.

    Args:
        name: the teacher, for errors.
        image_shape: ``(channels, height, width)`` of the images.
        classes: number of classes.

    Raises:
        RecipeError: if a size is missing or cannot work.
    """
    image_shape, classes = given(image_shape, f"{name}.image_shape"), given(classes, f"{name}.classes")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise RecipeError(
            f"{name}: image_shape must be three numbers of at least 1, channels, height and width; "
            f"got {list(image_shape)}"
        )
    if classes < 2:
        raise RecipeError(f"{name}: classes must be at least 2; got {classes}")
    return {"inputs": Field("real", tuple(image_shape)), "targets": Field("classes", classes=classes)}


def asked_labels(teacher: Teacher, request: TeacherInput) -> Tensor:
    """Return the classes that a request asks for.

    Raises:
        RecipeError: if it names none.
    """
    if request.labels is None:
        raise RecipeError(
            f"{type(teacher).__name__}: the curriculum names no classes: set its classes to the teacher's"
        )
    return request.labels
