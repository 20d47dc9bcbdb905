"""Base class of teachers: modules that turn a curriculum's requests into batches of training data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, Fields, given
from gtn_lightning.inner_loop.capture import is_part_of_a_graph, is_recorded
from gtn_lightning.inner_loop.replay import ReplayContext

LABELS = "labels"
"""The entry of a batch for the classes that samples were made for, beside its fields."""


class TeacherInput(NamedTuple):
    """A curriculum's request to the teacher for one inner step."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not used
    """Indices of samples in the pool, int64 ``[B]``; without a pool, arbitrary numbers."""
    labels: Tensor | None
    """Requested classes, int64 ``[B]``; None for data without classes."""
    noise: Tensor | None
    """Noise, float ``[B, noise]``; None for a teacher without noise."""


class Teacher(nn.Module, ABC):
    """Base class of teachers.

    A subclass sets ``fields`` and implements ``forward``. It overrides ``batches`` only if it can make the data of a
    whole inner loop faster than batch by batch. It stores its constructor's arguments as attributes of the same names,
    from which a teacher file describes it.

    Attributes:
        fields: the fields of its batches, which must match the task's; empty if the data decides.
        noise: size of the noise vector per sample, 0 for none.
        pool: number of samples if it has a fixed number, else None.
    """

    fields: Fields = {}  # noqa: RUF012  # never changed in place
    noise: int = 0
    pool: int | None = None

    @property
    def needs_real_data(self) -> bool:
        """Whether it cannot make its batches before `attach`; by default, it can."""
        return False

    @abstractmethod
    def forward(self, request: TeacherInput) -> Batch:
        """Make one inner batch.

        Args:
            request: the curriculum's request.

        Returns:
            A tensor ``[B, ...]`` for each field. A teacher of samples with classes may add the classes as ``labels``,
            int64 ``[B]``, for pictures and files.
        """

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        """Yield the batches of an inner loop, one per request, each computed when it is needed.

        Each batch is a checkpoint without stored activations: the backward pass runs the teacher again, batch by batch,
        so that memory does not grow with the teacher's activations over all inner steps.
        """
        for request in requests:
            yield recomputed(self, request.index.device, request) if torch.is_grad_enabled() else self(request)

    def draw(self, requests: Sequence[TeacherInput]) -> list[tuple[Tensor, ...]]:
        """Return the random tensors of an inner loop, a tuple for each request, for `batches_of`; empty by default.

        A teacher that draws random numbers on the host draws them here, so that a meta-step can be captured as a CUDA
        graph.

        Args:
            requests: the curriculum's requests.
        """
        return [() for _ in requests]

    def batches_of(self, requests: Sequence[TeacherInput], drawn: Sequence[Sequence[Tensor]]) -> Iterator[Batch]:
        """Yield the batches of an inner loop with the tensors that `draw` has returned; see `batches`."""
        return self.batches(requests)

    def attach(self, real: Batch) -> None:
        """Receive real training data; called before training and before every evaluation.

        By default, it does nothing.

        Args:
            real: the fields of real data, normalized as for the learner. Targets may be probabilities even if the
                task takes classes.
        """
        return


def recomputed(function: Callable[..., Any], device: torch.device, *given: Any) -> Any:
    """Return ``function(*given)`` without stored activations: the backward pass computes it again."""
    if is_recorded():  # random states cannot be restored, and a rehearsal has shown that none need be
        return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
    with ReplayContext(device, foreign=False).tracked() if is_part_of_a_graph() else nullcontext():
        return checkpoint(function, *given, use_reentrant=False)


def image_fields(name: str, image_shape: Sequence[int] | None, classes: int | None) -> Fields:
    """Return the fields of labeled images, or of images alone.

    Args:
        name: the teacher's class, for error messages.
        image_shape: ``(channels, height, width)`` of the images.
        classes: number of classes; None for images without labels.

    Raises:
        RecipeError: if the shape is missing, or a size is out of range.
    """
    image_shape = given(image_shape, f"{name}.image_shape")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise RecipeError(
            f"{name}: image_shape must be three numbers of at least 1, channels, height and width, "
            f"got {list(image_shape)}"
        )
    fields = {"inputs": Field("real", tuple(image_shape))}
    if classes is None:
        return fields
    if classes < 2:
        raise RecipeError(f"{name}: classes must be at least 2, got {classes}")
    return fields | {"targets": Field("classes", classes=classes)}


def requested_labels(teacher: Teacher, request: TeacherInput) -> Tensor:
    """Return the classes of a request.

    Raises:
        RecipeError: if it has none.
    """
    if request.labels is None:
        raise RecipeError(
            f"{type(teacher).__name__}: the curriculum requests no classes: set its classes to the teacher's"
        )
    return request.labels
