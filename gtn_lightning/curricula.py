"""Curricula: the teacher's input at each inner step (section 3.2 of Such et al., arXiv 1912.07768).

The first three have a pool of ``steps x batch_size`` samples, with labels if there are classes and noise for teachers
that take noise:

* ``Full``: step t always sees batch t; the order is learned with the data.
* ``ShuffledBatches``: the batches of ``Full`` in random order.
* ``ShuffledAll``: batches drawn at random from the pool.
* ``NoCurriculum``: no pool; fresh noise at every step.

``ShuffledPasses`` is the order of ordinary training, for teachers with a data set of any size.
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
        steps: number of inner steps T; a recipe may omit it, ``inner_loop`` then sets it.
        batch_size: samples per inner step B.
        classes: number of classes; sample i is of class i modulo classes, so all are equally frequent. None for data
            without classes; a recipe may omit it, the task then sets it.
        noise: size of the teacher's noise vector, 0 for none; a recipe may omit it, the teacher then sets it.

    Raises:
        RecipeError: if a number is out of range.
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
            raise RecipeError(f"{name}: steps, the number of inner steps, must be at least 1, got {steps}")
        if classes is not None and classes < 2:
            raise RecipeError(f"{name}: classes must be at least 2, got {classes}")
        if batch_size < (classes or 1):
            least = f"{classes}, so that every inner step has all classes," if classes else "1,"
            raise RecipeError(f"{name}: batch_size must be at least {least} got {batch_size}")
        if noise < 0:
            raise RecipeError(f"{name}: noise must be at least 0, got {noise}")
        self.steps = steps
        self.batch_size = batch_size
        self.classes = classes
        self.noise = noise

    @property
    @abstractmethod
    def pool(self) -> int | None:
        """Number of different samples in its requests, None if unbounded."""

    @abstractmethod
    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the requests to the teacher, one per inner step.

        Args:
            generator: a CPU generator for random choices.
            device: device of the returned tensors.
        """

    def labels(self, index: Tensor) -> Tensor | None:
        """Return the class of each sample, int64 of the shape of ``index``; None without classes."""
        return None if self.classes is None else index % self.classes


class Full(Curriculum):
    """The paper's best curriculum: every inner step has its own batch, the same in every meta-step.

    Args:
        steps, batch_size, classes, noise: see `Curriculum`.
        learned: whether the noise is meta-learned, or fixed at its initial value.

    Raises:
        RecipeError: if a number is out of range.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import Full
        >>> curriculum = Full(steps=2, batch_size=4, classes=2)
        >>> [request.index.tolist() for request in curriculum.requests(torch.Generator(), torch.device("cpu"))]
        [[0, 1, 2, 3], [4, 5, 6, 7]]
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
        """Return the samples of each inner step, int64 ``[steps, batch_size]``."""
        return torch.arange(self.pool).view(self.steps, self.batch_size)

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the requests of one inner loop; see the base class."""
        index = self.order(generator).to(device)
        # One gather for the whole loop: the gradient of every gather is as large as the pool.
        noise = [None] * self.steps if self.vectors is None else self.vectors[index].unbind()
        return [TeacherInput(rows, self.labels(rows), vectors) for rows, vectors in zip(index, noise, strict=True)]


class ShuffledBatches(Full):
    """The batches of ``Full``, in a new random order at every meta-step; arguments as for ``Full``.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import ShuffledBatches
        >>> curriculum = ShuffledBatches(steps=3, batch_size=2)
        >>> requests = curriculum.requests(torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> sorted(request.index.tolist() for request in requests)
        [[0, 1], [2, 3], [4, 5]]
    """

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the batches in a random order."""
        return super().order(generator)[torch.randperm(self.steps, generator=generator)]


class ShuffledAll(Full):
    """The samples of ``Full``, in new random batches at every meta-step; arguments as for ``Full``.

    An inner loop is one epoch over the pool.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import ShuffledAll
        >>> curriculum = ShuffledAll(steps=3, batch_size=2)
        >>> requests = curriculum.requests(torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> sorted(torch.cat([request.index for request in requests]).tolist())
        [0, 1, 2, 3, 4, 5]
    """

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the samples of the pool in a random order."""
        return torch.randperm(self.pool, generator=generator).view(self.steps, self.batch_size)


class ShuffledPasses(Curriculum):
    """Pass after pass over a data set, each in a new random order, as in ordinary training.

    Every inner loop begins with a new pass. A pass has every sample once; a batch may contain the end of one pass and
    the beginning of the next.

    Args:
        steps, batch_size, classes: see `Curriculum`.
        images: number of samples in the data set.

    Raises:
        RecipeError: if a number is out of range.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import ShuffledPasses
        >>> curriculum = ShuffledPasses(steps=2, batch_size=3, images=3)
        >>> requests = curriculum.requests(torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> [sorted(request.index.tolist()) for request in requests]  # two passes
        [[0, 1, 2], [0, 1, 2]]
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
            raise RecipeError(f"ShuffledPasses: images must be at least 1, got {images}")
        self.images = images

    @property
    def pool(self) -> int:
        """All samples of the data set."""
        return self.images

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the samples of shuffled passes, without noise; see the base class."""
        count = self.steps * self.batch_size
        passes = [torch.randperm(self.images, generator=generator) for _ in range(-(-count // self.images))]
        index = torch.cat(passes)[:count].view(self.steps, self.batch_size).to(device)
        return [TeacherInput(rows, self.labels(rows), None) for rows in index]


class NoCurriculum(Curriculum):
    """Fresh noise at every inner step of every meta-step; the teacher must make useful data from any noise.

    Args:
        steps, batch_size, classes, noise: see `Curriculum`.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import NoCurriculum
        >>> curriculum = NoCurriculum(steps=2, batch_size=4, classes=2, noise=16)
        >>> request = curriculum.requests(torch.Generator(), torch.device("cpu"))[0]
        >>> request.noise.shape, request.labels.tolist()
        (torch.Size([4, 16]), [0, 1, 0, 1])
    """

    @property
    def pool(self) -> None:
        """None: the number of different samples is unbounded."""
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
