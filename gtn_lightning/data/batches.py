"""Loaders over a split in memory: an endless random stream for training, one ordered pass for evaluation.

Both are plain iterables and not ``DataLoader``s. Worker processes would have nothing to do, and Lightning would give a
``DataLoader`` a distributed sampler: every rank would then evaluate on a part of the split, but ranks share out
learners and not samples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import pl
from gtn_lightning.randomness import keyed_generator, keyed_seed


def from_the_start() -> int:
    """Return the position of a new stream, 0."""
    return 0


def batches_trained_on(trainer: pl.Trainer) -> int:
    """Return the number of training batches that a trainer has used, also in earlier runs that this one resumes."""
    # "ready" also counts the batch of an interrupted step; "completed" is one too low in a checkpoint written at the
    # end of a step, until Lightning corrects it.
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]


class Stream(ABC):
    """Endless batches, each a function of its number.

    The stream does not store its position. A new iterator starts at ``position()``, which under a ``Trainer`` is the
    number of batches trained on so far. That number is in every checkpoint and does not count a batch that was fetched
    but not trained on, so a run that is resumed continues with exactly the next batch.

    Args:
        length: the return value of ``len``, the batches of one Lightning epoch. A length also keeps Lightning from
            fetching one batch ahead.
        position: returns the number of batches already trained on; called when an iterator yields its first batch.
    """

    def __init__(self, length: int, position: Callable[[], int] = from_the_start) -> None:
        self.epoch_length = length
        self.position = position

    @abstractmethod
    def batch(self, position: int) -> Any:
        """Return the batch at a position of this rank's stream, 0 for the first."""

    def __iter__(self) -> Iterator[Any]:
        position = self.position()
        while True:
            yield self.batch(position)
            position += 1

    def __len__(self) -> int:
        return self.epoch_length

    def state_dict(self) -> dict[str, Any]:
        """Return the position; Lightning warns that a loader without a state cannot be resumed."""
        return {"position": self.position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: Lightning has restored its batch count, which the next iterator reads."""
        return


class RealBatches(Stream):
    """Endless random batches, each a pure function of (seed, rank, world size, position).

    Passes over the split, each in a new random order and without an incomplete last batch, form one sequence of
    batches. Its batches go to the ranks in turn: no two ranks see the same batch, and together they see every sample
    once in a pass, except those of the incomplete batch.

    Args:
        *tensors: each ``[N, ...]``; inputs, such as images ``[N, C, H, W]``, then targets and so on.
        batch_size: samples in a batch, at most ``N``.
        seed: seed of the sequence of batches.
        rank: index of this process.
        world_size: number of processes that share the sequence.
        epoch_length: the return value of ``len``, the batches of one Lightning epoch; by default a rank's share of one
            pass.
        position: see `Stream`.

    Raises:
        RecipeError: if ``batch_size`` is below 1 or above the number of samples.

    Examples:
        >>> import torch
        >>> from gtn_lightning.data import RealBatches
        >>> stream = RealBatches(torch.randn(100, 13), torch.arange(100) % 3, batch_size=32)
        >>> inputs, targets, *_ = next(iter(stream))
        >>> inputs.shape, targets.shape
        (torch.Size([32, 13]), torch.Size([32]))
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch_length: int | None = None,
        position: Callable[[], int] = from_the_start,
    ) -> None:
        count = len(tensors[0])
        if not 1 <= batch_size <= count:
            raise RecipeError(f"data.batch_size must be between 1 and {count}, the number of samples, got {batch_size}")
        self.tensors = tensors
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches_per_pass = count // batch_size
        super().__init__(epoch_length or max(1, self.batches_per_pass // world_size), position)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, position: int) -> tuple[Tensor | int, ...]:
        """Return the batch at a position of this rank's stream.

        Args:
            position: 0 for the first batch.

        Returns:
            the rows of each tensor, ``[B, ...]``, and the seed of this batch's augmentation: a plain number,
            because reading a tensor on a device would wait for the device.
        """
        batch_index = position * self.world_size + self.rank
        pass_index, place = divmod(batch_index, self.batches_per_pass)
        if pass_index != self._order[0]:
            generator = keyed_generator(self.seed, "pass", pass_index)
            self._order = pass_index, torch.randperm(len(self.tensors[0]), generator=generator)
        rows = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return *(tensor[rows] for tensor in self.tensors), keyed_seed(self.seed, "batch", batch_index)


class EvaluationBatches:
    """All samples of a split, once, in order.

    Args:
        *tensors: as for `RealBatches`.
        batch_size: samples in a batch; the last may have fewer.

    Examples:
        >>> import torch
        >>> from gtn_lightning.data import EvaluationBatches
        >>> batches = EvaluationBatches(torch.randn(100, 13), torch.arange(100) % 3, batch_size=64)
        >>> [len(inputs) for inputs, targets in batches]
        [64, 36]
    """

    def __init__(self, *tensors: Tensor, batch_size: int) -> None:
        self.tensors = tensors
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(tensor.split(self.batch_size) for tensor in self.tensors), strict=True)

    def __len__(self) -> int:
        return math.ceil(len(self.tensors[0]) / self.batch_size)
