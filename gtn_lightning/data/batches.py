"""The two ways through a split: an endless random stream to train on, all of it in order to evaluate on.

Both are plain iterables over tensors in memory and not ``DataLoader``s. There is nothing for worker processes
to do, and Lightning would give a ``DataLoader`` a distributed sampler: an evaluation would then see a part of
the split on every rank, where learners are shared out and not samples.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.randomness import keyed_generator, keyed_seed


def from_the_start() -> int:
    """Return the position of a stream that nobody has read from yet."""
    return 0


class RealBatches:
    """Random batches without end, each a pure function of (seed, rank, world size, position).

    All passes over the split, each in a random order of its own and without its ragged end, make one sequence
    of batches. It is dealt out to the ranks in turn: no two of them see the same batch, and together they see
    every sample once in a pass, but for the ragged end.

    The stream keeps no place of its own. A new iterator starts where ``position()`` says, which under a
    ``Trainer`` is the number of batches trained on so far. That number is in every checkpoint and does not
    count a batch that was handed out but not trained on, so a run that was interrupted anywhere goes on with
    exactly the batch that comes next.

    Args:
        inputs: ``[N, ...]``, images ``[N, C, H, W]`` for instance.
        targets: ``[N, ...]``.
        batch_size: samples in a batch, at most ``N``.
        seed: which sequence of batches.
        rank: which of ``world_size`` processes this is.
        world_size: number of processes that share the sequence.
        epoch_length: what ``len`` says: the batches in what Lightning calls an epoch. A rank's share of one
            pass where it is not given. A length also keeps Lightning from fetching one batch ahead.
        position: called for the number of batches already trained on, when an iterator is asked for its first
            batch.

    Raises:
        RecipeError: if a batch would need more samples than there are.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch_length: int | None = None,
        position: Callable[[], int] = from_the_start,
    ) -> None:
        if not 1 <= batch_size <= len(targets):
            raise RecipeError(f"data.batch_size: {batch_size} given, expected 1 to {len(targets)} training samples")
        self.inputs = inputs
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches_per_pass = len(targets) // batch_size
        self.epoch_length = epoch_length or max(1, self.batches_per_pass // world_size)
        self.position = position
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, position: int) -> tuple[Tensor, Tensor, int]:
        """Return the batch at a position of this rank's stream.

        Args:
            position: 0 for the first batch.

        Returns:
            inputs ``[B, ...]``, targets ``[B, ...]``, and a key for whatever is random about this batch, such
            as its augmentation. It is a plain number because reading a tensor on a device would wait for the
            device.
        """
        turn = position * self.world_size + self.rank
        number, place = divmod(turn, self.batches_per_pass)
        if number != self._order[0]:
            generator = keyed_generator(self.seed, "pass", number)
            self._order = number, torch.randperm(len(self.targets), generator=generator)
        rows = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return self.inputs[rows], self.targets[rows], keyed_seed(self.seed, "batch", turn)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        position = self.position()
        while True:
            yield self.batch(position)
            position += 1

    def __len__(self) -> int:
        return self.epoch_length

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's place; Lightning warns of a loader without one that it cannot be resumed."""
        return {"position": self.position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: Lightning has restored its count by now, and the next iterator asks for it."""


class EvaluationBatches:
    """A whole split, once, in order.

    Args:
        inputs: ``[N, ...]``, images ``[N, C, H, W]`` for instance.
        targets: ``[N, ...]``.
        batch_size: samples in a batch; the last may have fewer.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int) -> None:
        self.inputs = inputs
        self.targets = targets
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size), strict=True)

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)
