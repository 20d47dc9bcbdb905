"""Base class of data sets that fit into memory: splits, batches, normalization."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.data.batches import EvaluationBatches, RealBatches, batches_trained_on
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import LightningDataModule
from gtn_lightning.randomness import keyed_generator


class InMemoryData(LightningDataModule, ABC):
    """Inputs and targets in memory, in three disjoint splits.

    Args:
        batch_size: real samples per meta-loss, in each process.
        eval_batch_size: samples in a batch of validation and testing.
        seed: seed of the order of the training samples.

    Attributes:
        samples_name: the word for samples in messages.

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
                raise RecipeError(f"data.{name} must be at least {least}, got {value}")
        # Stored under the arguments' names, from which a teacher file describes the data.
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self._splits: tuple[Any, ...] | None = None
        self._digest: str | None = None

    @abstractmethod
    def load(self) -> tuple[Any, ...]:
        """Read the data. Called once in every process; the splits must not depend on ``seed``.

        Returns:
            The splits for the meta-loss, to select the checkpoint and to report, each a tuple of raw inputs
            ``[N, ...]``, targets ``[N, ...]`` and what else belongs to them; and the number of classes, None without
            classes.
        """

    def measure(self, splits: tuple[Any, ...]) -> None:
        """Check what ``load`` returned, and measure what ``normalize`` needs on the training split."""
        return

    @abstractmethod
    def normalize(self, inputs: Tensor) -> Tensor:
        """Normalize raw inputs ``[N, ...]`` for a network, on any device."""

    def augment(self, inputs: Tensor, key: int) -> Tensor:
        """Return a training batch with random changes, here without.

        Args:
            inputs: raw inputs ``[B, ...]`` on the device.
            key: seed of this batch's random changes.
        """
        return inputs

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Augment and normalize on the device.

        ``(inputs, targets, ..., key)`` comes from the training stream and is augmented. Inputs of the raw inputs' kind,
        whole numbers or floating point, that are not alone are normalized. Anything else, such as a user's own floats
        beside raw whole numbers, passes as it is.

        Returns:
            Inputs ``[B, ...]``, float32 or what the trainer's precision requires, and targets ``[B, ...]``.
        """
        match batch:
            case [Tensor() as inputs, *others, int(key)]:
                return self._as_input(self.augment(inputs, key)), *others
            case [Tensor() as inputs, _, *_] if self._are_raw(inputs):
                return self._as_input(inputs), *batch[1:]
        return batch

    def _are_raw(self, inputs: Tensor) -> bool:
        return self._splits is not None and inputs.is_floating_point() == self._splits[0][0].is_floating_point()

    def _as_input(self, inputs: Tensor) -> Tensor:
        inputs = self.normalize(inputs)
        # The trainer converted the batch to its precision while it was raw, and leaves whole numbers alone.
        return inputs if self.trainer is None else self.trainer.precision_plugin.convert_input(inputs)

    def setup(self, stage: str | None = None) -> None:
        """Load all splits at the first call, whatever its stage; later calls do nothing."""
        if self._splits is not None:
            return
        splits = self.load()
        self.measure(splits)
        count = len(splits[0][1])
        if self.batch_size > count:
            raise RecipeError(
                f"data.batch_size must be at most {count}, the number of training {self.samples_name}, "
                f"got {self.batch_size}"
            )
        self._splits = splits
        self._digest = None

    @property
    def splits(self) -> tuple[Any, ...]:
        """The three splits, not normalized, and the number of classes."""
        if self._splits is None:
            # An AttributeError, so that hasattr and getattr with a default work.
            raise AttributeError(
                f"{type(self).__name__} has not read its data yet: call prepare_data() and setup() first"
            )
        return self._splits

    def split(self, name: str) -> tuple[Tensor, ...]:
        """Return the tensors of a split, ``train``, ``val`` or ``test``: raw inputs, targets, and what `load` adds."""
        return tuple(self.splits[("train", "val", "test").index(name)])

    def digest(self) -> str:
        """Return a digest of all inputs and targets of the three splits, whatever path they were read from.

        It is computed once.

        Returns:
            SHA-256, 64 hexadecimal digits.
        """
        if self._digest is None:
            digest = hashlib.sha256(str(self.splits[3]).encode())
            for split in self.splits[:3]:
                for part in split:
                    # The shape distinguishes splits that hold the same bytes in another form.
                    digest.update(str(tuple(part.shape)).encode())
                    digest.update(part.cpu().contiguous().numpy().data)
            self._digest = digest.hexdigest()
        return self._digest

    def some(self, split: str, count: int, seed: int) -> tuple[Tensor, ...]:
        """Return random samples of a split, normalized; the same samples for the same seed on every machine.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            count: maximum number of samples.
            seed: seed of the choice.

        Returns:
            Inputs, float32 ``[n, ...]``, and what belongs to them, each ``[n, ...]``.
        """
        inputs, *others = self.split(split)
        rows = torch.randperm(len(inputs), generator=keyed_generator(seed, "real", split))[:count]
        return self.normalize(inputs[rows]), *(part[rows] for part in others)

    def train_dataloader(self) -> RealBatches:
        """Return the endless stream of training batches of this rank.

        If the trainer counts steps, the whole run is one Lightning epoch: the progress bar then counts to
        ``max_steps``, and a resumed run never reaches the end of an epoch. If it counts epochs, an epoch is one pass
        over the split.
        """
        trainer = self.trainer
        if trainer is None:
            return RealBatches(*self.split("train"), batch_size=self.batch_size, seed=self.seed)
        whole_run = trainer.max_steps * trainer.accumulate_grad_batches
        return RealBatches(
            *self.split("train"),
            batch_size=self.batch_size,
            seed=self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            epoch_length=whole_run if whole_run > 0 else None,
            position=lambda: batches_trained_on(trainer),
        )

    def val_dataloader(self) -> EvaluationBatches:
        """Return the loader of the validation split, complete on every rank."""
        return EvaluationBatches(*self.split("val"), batch_size=self.eval_batch_size)

    def test_dataloader(self) -> EvaluationBatches:
        """Return the loader of the test split, complete on every rank."""
        return EvaluationBatches(*self.split("test"), batch_size=self.eval_batch_size)

    def predict_dataloader(self) -> Any:
        """Return the module's own loader, since it predicts synthetic data, one batch per inner step."""
        assert self.trainer is not None
        return self.trainer.lightning_module.predict_dataloader()

    def __str__(self) -> str:
        # Lightning's __str__ fails without DataLoaders.
        if self._splits is None:
            return f"{type(self).__name__}, not read yet"
        train, val, test = (len(split[1]) for split in self._splits[:3])
        return f"{type(self).__name__}: {train} {self.samples_name} to train, {val} to validate and {test} to test on"
