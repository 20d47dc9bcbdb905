"""Curricula: which teacher input each inner step sees, and in which order (the paper's section 3.2).

The first three hold a pool of ``steps x batch_size`` samples, with their labels where there are classes and, for
teachers that take noise, their noise:

* ``Full``: step t always sees batch t; the order is learned with the data.
* ``ShuffledBatches``: the batches of ``Full`` in random order.
* ``ShuffledAll``: batches drawn at random from the pool.
* ``NoCurriculum``: no pool; fresh noise at every step.

``ShuffledPasses`` is the order of ordinary training, for teachers that hold a data set of any size.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import given
from gtn_lightning.teachers.base import TeacherInput


class Curriculum(nn.Module, ABC):
    """Base class of curricula.

    Args:
        steps: number of inner steps T; a recipe may leave it to ``inner_loop``.
        batch_size: samples per inner step B.
        classes: number of classes; labels are spread evenly, sample i is of class i modulo classes. None for data
            without classes; a recipe may leave it to its task.
        noise: size of the noise vector that the teacher takes, 0 for none; a recipe may leave it to its teacher.

    Raises:
        RecipeError: if a number cannot work.
    """

    def __init__(
        self,
        steps: int | None = None,
        batch_size: int = 32,
        classes: int | None = None,
        noise: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        steps, noise = given(steps, f"{name}.steps"), noise or 0
        if steps < 1:
            raise RecipeError(f"{name}: steps, the number of inner steps, must be at least 1; got {steps}")
        if classes is not None and classes < 2:
            raise RecipeError(f"{name}: classes must be at least 2; got {classes}")
        if batch_size < (classes or 1):
            raise RecipeError(
                f"{name}: a batch_size of {batch_size} cannot show all {classes} classes in an inner step: "
                f"use at least {classes}"
                if classes
                else f"{name}: batch_size must be at least 1, got {batch_size}"
            )
        if noise < 0:
            raise RecipeError(f"{name}: noise must be at least 0; got {noise}")
        self.steps = steps
        self.batch_size = batch_size
        self.classes = classes
        self.noise = noise

    @property
    @abstractmethod
    def pool(self) -> int | None:
        """Number of different samples it asks for, or None without a bound."""

    @abstractmethod
    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return what to ask of the teacher at each inner step.

        Args:
            generator: where random choices come from, on the CPU.
            device: where the tensors are wanted.
        """

    def labels(self, index: Tensor) -> Tensor | None:
        """Return the class of each sample, int64 of the same shape as its number; None without classes."""
        return None if self.classes is None else index % self.classes


class Full(Curriculum):
    """Every inner step has its own batch, always the same: the full curriculum, the paper's best.

    Args:
        steps, batch_size, classes, noise: see `Curriculum`.
        learned: whether the noise is learned with the teacher or stays as it was drawn.

    Raises:
        RecipeError: if a number cannot work.
    """

    def __init__(
        self,
        steps: int | None = None,
        batch_size: int = 32,
        classes: int | None = None,
        noise: int | None = None,
        learned: bool = True,
    ) -> None:
        super().__init__(steps, batch_size, classes, noise)
        self.learned = learned
        self.vectors: nn.Parameter | None = None
        if self.noise:
            self.vectors = nn.Parameter(torch.randn(self.pool, self.noise), requires_grad=learned)

    @property
    def pool(self) -> int:
        """Steps times batch size."""
        return self.steps * self.batch_size

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the samples that each inner step sees, int64 ``[steps, batch_size]``."""
        return torch.arange(self.pool).view(self.steps, self.batch_size)

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the requests of one inner loop; see the base class."""
        index = self.order(generator).to(device)
        # One gather for the whole loop: the derivative of every gather is as large as the pool.
        noise = [None] * self.steps if self.vectors is None else self.vectors[index].unbind()
        return [TeacherInput(rows, self.labels(rows), vectors) for rows, vectors in zip(index, noise, strict=True)]


class ShuffledBatches(Full):
    """The batches of ``Full``, in a random order at every meta-step; arguments as there."""

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the batches in a random order."""
        return super().order(generator)[torch.randperm(self.steps, generator=generator)]


class ShuffledAll(Full):
    """Samples of the pool of ``Full``, in random batches at every meta-step; arguments as there.

    Each sample is seen once per inner loop, as an epoch over a small data set.
    """

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the samples of the pool in a random order."""
        return torch.randperm(self.pool, generator=generator).view(self.steps, self.batch_size)


class ShuffledPasses(Curriculum):
    """The order in which ordinary training sees a data set: pass after pass, each in a random order of its own.

    Every inner loop begins a pass. A pass shows every sample once; the next one follows without a gap, also in the
    middle of a batch.

    Args:
        steps, batch_size, classes: see `Curriculum`.
        images: number of samples in the data set.

    Raises:
        RecipeError: if a number cannot work.
    """

    def __init__(
        self,
        steps: int | None = None,
        batch_size: int = 32,
        classes: int | None = None,
        images: int | None = None,
    ) -> None:
        super().__init__(steps, batch_size, classes)
        images = given(images, "ShuffledPasses.images")
        if images < 1:
            raise RecipeError(f"ShuffledPasses: images must be at least 1; got {images}")
        self.images = images

    @property
    def pool(self) -> int:
        """All samples of the data set."""
        return self.images

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the rows of shuffled passes, for teachers that take no noise; see the base class."""
        asked = self.steps * self.batch_size
        passes = [torch.randperm(self.images, generator=generator) for _ in range(-(-asked // self.images))]
        index = torch.cat(passes)[:asked].view(self.steps, self.batch_size).to(device)
        return [TeacherInput(rows, self.labels(rows), None) for rows in index]


class NoCurriculum(Curriculum):
    """Fresh noise at every inner step of every meta-step: the teacher must turn any noise into something that teaches.

    Args:
        steps, batch_size, classes, noise: see `Curriculum`.
    """

    @property
    def pool(self) -> None:
        """There is no pool."""
        return

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return fresh noise for every inner step; see the base class."""
        shape = (self.steps, self.batch_size)
        index = torch.randint(2**31, shape, generator=generator).to(device)
        noise = torch.randn(*shape, self.noise, generator=generator).to(device) if self.noise else None
        labels = self.labels(torch.arange(self.steps * self.batch_size, device=device).view(shape))
        return [
            TeacherInput(
                index[step],
                None if labels is None else labels[step],
                None if noise is None else noise[step],
            )
            for step in range(self.steps)
        ]
