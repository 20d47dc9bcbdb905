"""Curricula: which teacher input each inner step sees, and in which order (the paper's section 3.2).

The first three hold a pool of ``steps x batch_size`` images, with their labels and, for teachers that take noise, their
noise:

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
from gtn_lightning.teachers.base import TeacherInput


class Curriculum(nn.Module, ABC):
    """Base class of curricula.

    Args:
        steps: number of inner steps T.
        batch_size: images per inner step B.
        classes: number of classes; labels are spread evenly, image i shows class i modulo classes.
        noise: size of the noise vector that the teacher takes, 0 for none.

    Raises:
        RecipeError: if a number cannot work.
    """

    def __init__(self, steps: int, batch_size: int, classes: int, noise: int = 0) -> None:
        super().__init__()
        name = type(self).__name__
        if steps < 1:
            raise RecipeError(f"{name}: steps, the number of inner steps, must be at least 1; got {steps}")
        if classes < 2:
            raise RecipeError(f"{name}: classes must be at least 2; got {classes}")
        if batch_size < classes:
            raise RecipeError(
                f"{name}: a batch_size of {batch_size} cannot show all {classes} classes in an inner step: "
                f"use at least {classes}"
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
        """Number of different images it asks for, or None without a bound."""

    @abstractmethod
    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return what to ask of the teacher at each inner step.

        Args:
            generator: where random choices come from, on the CPU.
            device: where the tensors are wanted.
        """


class Full(Curriculum):
    """Every inner step has its own batch, always the same: the full curriculum, the paper's best.

    Args:
        steps: number of inner steps T.
        batch_size: images per inner step B.
        classes: number of classes.
        noise: size of the noise vector that the teacher takes, 0 for none.
        learned: whether the noise is learned with the teacher or stays as it was drawn.

    Raises:
        RecipeError: if a number cannot work.
    """

    def __init__(self, steps: int, batch_size: int, classes: int, noise: int = 0, learned: bool = True) -> None:
        super().__init__(steps, batch_size, classes, noise)
        self.learned = learned
        self.vectors: nn.Parameter | None = None
        if noise:
            self.vectors = nn.Parameter(torch.randn(steps * batch_size, noise), requires_grad=learned)

    @property
    def pool(self) -> int:
        """Steps times batch size."""
        return self.steps * self.batch_size

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the images that each inner step sees, int64 ``[steps, batch_size]``."""
        return torch.arange(self.pool).view(self.steps, self.batch_size)

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the requests of one inner loop; see the base class."""
        index = self.order(generator).to(device)
        # One gather for the whole loop: the derivative of every gather is as large as the pool.
        noise = [None] * self.steps if self.vectors is None else self.vectors[index].unbind()
        return [TeacherInput(rows, rows % self.classes, vectors) for rows, vectors in zip(index, noise, strict=True)]


class ShuffledBatches(Full):
    """The batches of ``Full``, in a random order at every meta-step; arguments as there."""

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the batches in a random order."""
        return super().order(generator)[torch.randperm(self.steps, generator=generator)]


class ShuffledAll(Full):
    """Images of the pool of ``Full``, in random batches at every meta-step; arguments as there.

    Each image is seen once per inner loop, as an epoch over a small data set.
    """

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the images of the pool in a random order."""
        return torch.randperm(self.pool, generator=generator).view(self.steps, self.batch_size)


class ShuffledPasses(Curriculum):
    """The order in which ordinary training sees a data set: pass after pass, each in a random order of its own.

    Every inner loop begins a pass. A pass shows every image once; the next one follows without a gap, also in the
    middle of a batch.

    Args:
        steps: number of inner steps T.
        batch_size: images per inner step B.
        classes: number of classes.
        images: number of images in the data set.

    Raises:
        RecipeError: if a number cannot work.
    """

    def __init__(self, steps: int, batch_size: int, classes: int, images: int) -> None:
        super().__init__(steps, batch_size, classes)
        if images < 1:
            raise RecipeError(f"ShuffledPasses: images must be at least 1; got {images}")
        self.images = images

    @property
    def pool(self) -> int:
        """All images of the data set."""
        return self.images

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the rows of shuffled passes, for teachers that take no noise; see the base class."""
        asked = self.steps * self.batch_size
        passes = [torch.randperm(self.images, generator=generator) for _ in range(-(-asked // self.images))]
        index = torch.cat(passes)[:asked].view(self.steps, self.batch_size).to(device)
        return [TeacherInput(rows, rows % self.classes, None) for rows in index]


class NoCurriculum(Curriculum):
    """Fresh noise at every inner step of every meta-step: the teacher must turn any noise into something that teaches.

    Args:
        steps: number of inner steps T.
        batch_size: images per inner step B.
        classes: number of classes.
        noise: size of the noise vector that the teacher takes.
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
        labels = (torch.arange(self.steps * self.batch_size, device=device) % self.classes).view(shape)
        return [
            TeacherInput(index[step], labels[step], None if noise is None else noise[step])
            for step in range(self.steps)
        ]
