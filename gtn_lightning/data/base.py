"""What every dataset that fits into memory has in common: splits, batches, normalisation, augmentation."""

import hashlib
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gtn_lightning.data.augment import augment
from gtn_lightning.data.batches import EvaluationBatches, RealBatches
from gtn_lightning.errors import RecipeError
from gtn_lightning.labels import class_numbers
from gtn_lightning.randomness import keyed_generator


class Split(NamedTuple):
    """Images, uint8 ``[N, C, H, W]``, and their labels, int64 ``[N]``."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> "Split":
        """Return the rows with these indices, int64 ``[n]``."""
        return Split(self.images[rows], self.labels[rows])


class Splits(NamedTuple):
    """What meta-training sees, what selects the checkpoint, what is reported; and the number of classes."""

    train: Split
    val: Split
    test: Split
    classes: int


class TensorData(LightningDataModule, ABC):
    """A classification dataset held in memory as uint8.

    A dataset of your own needs only ``load``. Batches leave the loaders as uint8, a quarter of what floats
    would take on the way to a device; there they are augmented (training only) and normalised with the
    training split's mean and standard deviation per channel.

    Args:
        batch_size: real images that a meta-loss is computed on, in each process.
        eval_batch_size: images in a batch of validation and testing.
        seed: the order of the training images, and their augmentation.
        crop: random crop of training images, pixels of padding; 0 for none.
        flip: mirror training images left to right at random.
        rotate: rotate training images at random, by at most this many degrees.
        scale: stretch or shrink training images at random by up to this fraction.
        shift: move training images at random, by at most this many pixels, which may be a fraction.

    Raises:
        RecipeError: if a value is out of range.
    """

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        seed: int = 0,
        crop: int = 0,
        flip: bool = False,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("seed", seed, 0),
            ("crop", crop, 0),
            ("rotate", rotate, 0),
            ("scale", scale, 0),
            ("shift", shift, 0),
        ):
            if not least <= value < math.inf:
                raise RecipeError(f"data.{name}: {value} given, expected {least} or more")
        if scale >= 1:
            raise RecipeError(f"data.scale: {scale} given, expected a fraction below 1")
        # Under their own names, so that a teacher file can describe the data.
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.crop = crop
        self.flip = flip
        self.rotate = rotate
        self.scale = scale
        self.shift = shift
        self._splits: Splits | None = None
        self._digest: str | None = None

    @abstractmethod
    def load(self) -> Splits:
        """Read the data. Called once in every process; the splits must not depend on ``seed``."""

    def setup(self, stage: str | None = None) -> None:
        """Load all splits, whichever stage asks first; later calls do nothing."""
        if self._splits is not None:
            return
        splits = self.load()
        self._check(splits)
        if self.batch_size > len(splits.train.labels):
            raise RecipeError(
                f"data.batch_size: {self.batch_size} given, expected at most {len(splits.train.labels)}, "
                "the number of training images"
            )
        self.mean, self.std = channel_statistics(splits.train.images)
        self._splits = splits
        self._digest = None

    def _check(self, splits: Splits) -> None:
        shape = list(splits.train.images.shape[1:])
        for purpose, (images, labels) in zip(("train", "val", "test"), splits[:3], strict=True):
            what = f"{type(self).__name__}.load: the split {purpose} has"
            if images.dtype != torch.uint8 or images.dim() != 4:
                raise RecipeError(
                    f"{what} images that are {_form(images)}, expected uint8 [N, C, H, W]: return raw pixels, 0 to "
                    "255, which are normalised later"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                advice = ".argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else ".flatten().long()"
                raise RecipeError(
                    f"{what} labels that are {_form(labels)} for {len(images)} images, expected int64 "
                    f"[{len(images)}]: one class number for each image, for instance by {advice}"
                )
            if list(images.shape[1:]) != shape:
                raise RecipeError(
                    f"{what} images of shape {list(images.shape[1:])} and the split train of shape {shape}, expected "
                    "one shape: resize them first"
                )
            low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
            if low < 0 or high >= splits.classes:
                raise RecipeError(
                    f"{what} labels from {low} to {high}, expected 0 to {splits.classes - 1} for {splits.classes} "
                    "classes: correct the labels or the number of classes"
                )

    @property
    def splits(self) -> Splits:
        """The three splits, raw."""
        if self._splits is None:
            # An AttributeError, so that hasattr and getattr with a default do what they promise.
            raise AttributeError(
                f"{type(self).__name__} has not read its data yet: call prepare_data() and setup() first"
            )
        return self._splits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.splits.train.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.splits.classes

    def digest(self) -> str:
        """Return a digest of everything that was read: every image and every label of the three splits.

        It does not depend on the place that the data were read from. It is computed once.

        Returns:
            SHA-256, 64 hexadecimal digits.
        """
        if self._digest is None:
            digest = hashlib.sha256(str(self.classes).encode())
            for split in self.splits[:3]:
                for part in split:
                    # The shape tells apart splits that hold the same bytes in another form.
                    digest.update(str(tuple(part.shape)).encode())
                    digest.update(part.cpu().contiguous().numpy().data)
            self._digest = digest.hexdigest()
        return self._digest

    def normalise(self, images: Tensor) -> Tensor:
        """Turn raw images into what a network sees.

        Args:
            images: uint8 ``[..., C, H, W]`` on any device.

        Returns:
            float32 of the same shape; in the training split, every channel has mean 0 and deviation 1.
        """
        mean, std = (value.to(images.device)[:, None, None] for value in (self.mean, self.std))
        return (images.float() - mean) / std

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Augment and normalise on the device.

        A batch's form says what it is: ``(images, labels, key)`` comes from the training stream and is
        augmented; ``(images, labels)`` of type uint8 is only normalised; anything else, such as a user's own
        floats, passes as it is.

        Returns:
            images ``[B, C, H, W]``, float32 or what the trainer's precision asks for, and labels, int64 ``[B]``.
        """
        match batch:
            case [Tensor(dtype=torch.uint8) as images, labels, int(key)]:
                images = augment(images, key, self.crop, self.flip, self.rotate, self.scale, self.shift)
                return self._as_input(images), labels
            case [Tensor(dtype=torch.uint8) as images, labels]:
                return self._as_input(images), labels
        return batch

    def _as_input(self, images: Tensor) -> Tensor:
        images = self.normalise(images)
        # The trainer converted the batch to its precision while it was uint8, which it leaves alone.
        return images if self.trainer is None else self.trainer.precision_plugin.convert_input(images)

    def some(self, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return some images of a split as a network sees them, the same ones for the same seed everywhere.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            count: how many at most.
            seed: which ones.

        Returns:
            float32 ``[n, C, H, W]`` and labels, int64 ``[n]``.
        """
        images, labels = getattr(self.splits, split)
        rows = torch.randperm(len(labels), generator=keyed_generator(seed, "real", split))[:count]
        return self.normalise(images[rows]), labels[rows]

    def train_dataloader(self) -> RealBatches:
        """Return the endless stream of training batches of this rank.

        Where the trainer counts steps, the whole run is one epoch to Lightning: its progress bar then counts
        to ``max_steps``, and a resumed run never meets an epoch's end. Where it counts epochs, an epoch is a
        pass over the split.
        """
        trainer = self.trainer
        if trainer is None:
            return RealBatches(*self.splits.train, self.batch_size, self.seed)
        whole_run = trainer.max_steps * trainer.accumulate_grad_batches
        return RealBatches(
            *self.splits.train,
            self.batch_size,
            self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            epoch_length=whole_run if whole_run > 0 else None,
            position=self._batches_trained_on,
        )

    def val_dataloader(self) -> EvaluationBatches:
        """Return the validation split, the whole of it on every rank."""
        return EvaluationBatches(*self.splits.val, self.eval_batch_size)

    def test_dataloader(self) -> EvaluationBatches:
        """Return the test split, the whole of it on every rank."""
        return EvaluationBatches(*self.splits.test, self.eval_batch_size)

    def predict_dataloader(self) -> Any:
        """Return the module's own loader: what is predicted is synthetic data, one batch per inner step."""
        assert self.trainer is not None
        return self.trainer.lightning_module.predict_dataloader()

    def __str__(self) -> str:
        # Lightning's own looks for DataLoaders, and fails where there are none.
        if self._splits is None:
            return f"{type(self).__name__}, not read yet"
        train, val, test = (len(split.labels) for split in self._splits[:3])
        return f"{type(self).__name__}: {train} images to train, {val} to validate and {test} to test on"

    def _batches_trained_on(self) -> int:
        assert self.trainer is not None
        # "ready" counts the batch of an interrupted step too; "completed" is one behind in a checkpoint
        # written at a step's end, until Lightning corrects it.
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(progress.processed)  # type: ignore[attr-defined]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of every channel.

    Args:
        images: uint8 ``[N, C, H, W]``.

    Returns:
        both float32 ``[C]``; the standard deviation of a channel that never changes is given as 1.
    """
    # Counting the 256 values is exact, and needs no floating-point copy of the dataset.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    frequencies = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = frequencies @ values
    variance = (frequencies * (values - mean[:, None]) ** 2).sum(1)
    return mean.float(), torch.where(variance > 0, variance.sqrt(), 1.0).float()


def hold_back(labels: Tensor, size: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Choose rows at random, as many of every class as is its share, and always the same ones.

    A class that has rows keeps at least one of them, however rare it is: what it cannot give, the others do.

    Args:
        labels: int64 ``[N]``, or class probabilities ``[N, classes]``, of which the most probable class counts.
        size: number of rows to hold back.
        purpose: which choice this is: another purpose chooses other rows.

    Returns:
        the rows that stay and those held back, both ascending, int64.

    Raises:
        RecipeError: if fewer rows can be held back.
    """
    counts = class_numbers(labels).bincount()
    most = (counts - 1).clamp(min=0)
    if not 0 <= size <= int(most.sum()):
        raise RecipeError(
            f"{size} of {len(labels)} images to hold back for {purpose}, expected 0 to {int(most.sum())}, so that "
            f"each of the {int((counts > 0).sum())} classes keeps one"
        )
    held = _stratified(labels, counts, size, torch.zeros_like(counts), most, purpose)
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def choose(labels: Tensor, size: int, purpose: str) -> Tensor:
    """Choose rows to use, as ``hold_back`` chooses those to hold back, at least one of every class that has any.

    Where there are more classes than rows to choose, the rarest go without.

    Args:
        labels: as for ``hold_back``.
        size: number of rows, at most ``N``.
        purpose: as for ``hold_back``.

    Returns:
        the rows, ascending, int64.
    """
    counts = class_numbers(labels).bincount()
    least = counts.clamp(max=1)
    if int(least.sum()) > size:
        least = torch.zeros_like(counts)
    return _stratified(labels, counts, size, least, counts, purpose).nonzero()[:, 0]


def _stratified(labels: Tensor, counts: Tensor, size: int, least: Tensor, most: Tensor, purpose: str) -> Tensor:
    """Mark ``size`` rows, of every class its share of them as far as ``least`` and ``most`` allow, bool ``[N]``."""
    labels = class_numbers(labels)
    shares = counts.double() * size / len(labels)
    chosen = shares.floor().long()
    # What rounding down left over goes to the classes that lost most by it.
    chosen[(shares - chosen).argsort(descending=True, stable=True)[: size - int(chosen.sum())]] += 1
    chosen = chosen.clamp(least, most)
    # And what a class cannot give, or must have, to and from those that are furthest from their share.
    while missing := size - int(chosen.sum()):
        step = 1 if missing > 0 else -1
        free = chosen < most if missing > 0 else chosen > least
        order = ((shares - chosen) * step).masked_fill(~free, -math.inf).argsort(descending=True, stable=True)
        chosen[order[: min(abs(missing), int(free.sum()))]] += step
    order = torch.randperm(len(labels), generator=keyed_generator(0, "hold back", purpose))
    marked = torch.zeros(len(labels), dtype=torch.bool)
    for label, number in enumerate(chosen.tolist()):
        marked[order[labels[order] == label][:number]] = True
    return marked


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
