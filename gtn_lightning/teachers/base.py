"""What every teacher is: a module that turns a curriculum's requests into batches of training data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gtn_lightning.errors import RecipeError


class TeacherInput(NamedTuple):
    """What a curriculum asks of the teacher for one inner step."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """Which images of the pool are meant, int64 ``[B]``; without a pool, arbitrary numbers."""
    labels: Tensor
    """The class asked for, int64 ``[B]``."""
    noise: Tensor | None
    """The teacher's noise, float ``[B, noise]``, or None for a teacher that takes none."""


class SyntheticBatch(NamedTuple):
    """One inner batch as the teacher made it."""

    inputs: Tensor
    """Images, float ``[B, C, H, W]``."""
    targets: Tensor
    """What the learner is to predict: int64 ``[B]``, or class probabilities ``[B, classes]``."""
    labels: Tensor
    """The classes that were asked for, int64 ``[B]``."""


class Teacher(nn.Module, ABC):
    """Base class of teachers.

    A teacher of one's own implements ``forward``, and ``batches`` only where a whole inner loop's data can be made
    more cheaply than batch by batch. It stores its constructor's arguments under their own names, so that a teacher
    file can describe it.

    Attributes:
        image_shape: ``(channels, height, width)`` of its images.
        classes: number of classes.
        noise: size of the noise vector it takes per image, 0 for none.
        pool: number of images it holds, or None if it makes as many different ones as it is asked for.
    """

    image_shape: tuple[int, int, int]
    classes: int
    noise: int = 0
    pool: int | None = None

    @abstractmethod
    def forward(self, index: Tensor, labels: Tensor, noise: Tensor | None) -> SyntheticBatch:
        """Make one inner batch.

        Args:
            index: which images of the pool, int64 ``[B]``.
            labels: the class of each image, int64 ``[B]``.
            noise: float ``[B, noise]``, or None.

        Returns:
            Images ``[B, C, H, W]`` with their targets.
        """

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[SyntheticBatch]:
        """Make the batches of an inner loop, one per request, each when it is asked for.

        Every batch is a chunk of its own that keeps no activations: the backward pass runs the teacher again, batch
        by batch, so that memory does not grow with the teacher's activations over all inner steps.
        """
        for request in requests:
            if torch.is_grad_enabled():
                yield checkpoint(self, *request, use_reentrant=False)
            else:
                yield self(*request)

    def attach(self, images: Tensor, labels: Tensor) -> None:
        """Receive real training images; called before training and before every evaluation.

        Most teachers have no use for them.

        Args:
            images: float ``[N, C, H, W]``, normalised as the learner is to see them.
            labels: int64 ``[N]``, or class probabilities ``[N, classes]`` where the data has such.
        """
        return


def check_sizes(name: str, image_shape: Sequence[int], classes: int) -> None:
    """Raise ``RecipeError`` unless a teacher's sizes make sense."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise RecipeError(
            f"{name}: image_shape must be three numbers of at least 1, channels, height and width; "
            f"got {list(image_shape)}"
        )
    if classes < 2:
        raise RecipeError(f"{name}: classes must be at least 2; got {classes}")
