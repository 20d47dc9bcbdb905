"""What every data set that fits into memory has in common: splits, batches, normalization."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.data.batches import EvaluationBatches, RealBatches
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import LightningDataModule
from gtn_lightning.randomness import keyed_generator


class InMemoryData(LightningDataModule, ABC):
    """Inputs and targets in memory, in three splits that never mix.

    Args:
        batch_size: real samples that a meta-loss is computed on, in each process.
        eval_batch_size: samples in a batch of validation and testing.
        seed: the order of the training samples.

    Attributes:
        samples_name: what messages call the samples.

    Raises:
        RecipeError: if a value is out of range.
    """

    samples_name: str = "samples"

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise RecipeError(f"data.{name}: {value} given, expected {least} or more")
        # Under their own names, so that a teacher file can describe the data.
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self._splits: tuple[Any, ...] | None = None
        self._digest: str | None = None

    @abstractmethod
    def load(self) -> tuple[Any, ...]:
        """Read the data. Called once in every process; the splits must not depend on ``seed``.

        Returns:
            What meta-training sees, what selects the checkpoint and what is reported, each a pair of raw inputs
            ``[N, ...]`` and targets ``[N, ...]``; and the number of classes, None without classes.
        """

    @abstractmethod
    def prepare(self, splits: tuple[Any, ...]) -> None:
        """Check what ``load`` returned, and measure what ``normalize`` needs on the training split."""

    @abstractmethod
    def normalize(self, inputs: Tensor) -> Tensor:
        """Turn raw inputs ``[N, ...]`` into what a network sees, on any device."""

    def setup(self, stage: str | None = None) -> None:
        """Load all splits, whichever stage asks first; later calls do nothing."""
        if self._splits is not None:
            return
        splits = self.load()
        self.prepare(splits)
        count = len(splits[0][1])
        if self.batch_size > count:
            raise RecipeError(
                f"data.batch_size: {self.batch_size} given, expected at most {count}, "
                f"the number of training {self.samples_name}"
            )
        self._splits = splits
        self._digest = None

    @property
    def splits(self) -> tuple[Any, ...]:
        """The three splits, raw, and the number of classes."""
        if self._splits is None:
            # An AttributeError, so that hasattr and getattr with a default do what they promise.
            raise AttributeError(
                f"{type(self).__name__} has not read its data yet: call prepare_data() and setup() first"
            )
        return self._splits

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Return raw inputs and targets of a split, ``train``, ``val`` or ``test``."""
        inputs, targets = self.splits[("train", "val", "test").index(name)]
        return inputs, targets

    def digest(self) -> str:
        """Return a digest of everything that was read: all inputs and targets of the three splits.

        It does not depend on the place that the data were read from. It is computed once.

        Returns:
            SHA-256, 64 hexadecimal digits.
        """
        if self._digest is None:
            digest = hashlib.sha256(str(self.splits[3]).encode())
            for split in self.splits[:3]:
                for part in split:
                    # The shape tells apart splits that hold the same bytes in another form.
                    digest.update(str(tuple(part.shape)).encode())
                    digest.update(part.cpu().contiguous().numpy().data)
            self._digest = digest.hexdigest()
        return self._digest

    def some(self, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return some samples of a split as a network sees them, the same ones for the same seed everywhere.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            count: how many at most.
            seed: which ones.

        Returns:
            Inputs, float32 ``[n, ...]``, and targets ``[n, ...]``.
        """
        inputs, targets = self.split(split)
        rows = torch.randperm(len(targets), generator=keyed_generator(seed, "real", split))[:count]
        return self.normalize(inputs[rows]), targets[rows]

    def train_dataloader(self) -> RealBatches:
        """Return the endless stream of training batches of this rank.

        Where the trainer counts steps, the whole run is one epoch to Lightning: its progress bar then counts
        to ``max_steps``, and a resumed run never meets an epoch's end. Where it counts epochs, an epoch is a
        pass over the split.
        """
        trainer = self.trainer
        if trainer is None:
            return RealBatches(*self.split("train"), self.batch_size, self.seed)
        whole_run = trainer.max_steps * trainer.accumulate_grad_batches
        return RealBatches(
            *self.split("train"),
            self.batch_size,
            self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            epoch_length=whole_run if whole_run > 0 else None,
            position=self._batches_trained_on,
        )

    def val_dataloader(self) -> EvaluationBatches:
        """Return the validation split, the whole of it on every rank."""
        return EvaluationBatches(*self.split("val"), self.eval_batch_size)

    def test_dataloader(self) -> EvaluationBatches:
        """Return the test split, the whole of it on every rank."""
        return EvaluationBatches(*self.split("test"), self.eval_batch_size)

    def predict_dataloader(self) -> Any:
        """Return the module's own loader: what is predicted is synthetic data, one batch per inner step."""
        assert self.trainer is not None
        return self.trainer.lightning_module.predict_dataloader()

    def __str__(self) -> str:
        # Lightning's own looks for DataLoaders, and fails where there are none.
        if self._splits is None:
            return f"{type(self).__name__}, not read yet"
        train, val, test = (len(split[1]) for split in self._splits[:3])
        what = self.samples_name
        return f"{type(self).__name__}: {train} {what} to train, {val} to validate and {test} to test on"

    def _batches_trained_on(self) -> int:
        assert self.trainer is not None
        # "ready" counts the batch of an interrupted step too; "completed" is one behind in a checkpoint
        # written at a step's end, until Lightning corrects it.
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(progress.processed)  # type: ignore[attr-defined]
