"""Base class of labeled image data sets in memory: checks, normalization, augmentation."""

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtn_lightning.data.augment import augment, check_changes
from gtn_lightning.data.in_memory import InMemoryData
from gtn_lightning.data.reports import Normalizes
from gtn_lightning.data.whitening import Whitening, fit_whitening
from gtn_lightning.errors import RecipeError


class Split(NamedTuple):
    """Images, uint8 ``[N, C, H, W]``, and their labels, int64 ``[N]``."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> "Split":
        """Return the rows at these indices, int64 ``[n]``."""
        return Split(self.images[rows], self.labels[rows])


class Splits(NamedTuple):
    """The split for the meta-loss, the one to select the checkpoint, the one to report; and the number of classes."""

    train: Split
    val: Split
    test: Split
    classes: int


class TensorData(InMemoryData, Normalizes):
    """A classification dataset held in memory as uint8.

    A subclass needs only ``load``. Batches leave the loaders as uint8, a quarter of the size of float32. On the
    device they are augmented (training only) and normalized with the training split's mean and standard deviation
    per channel, and then whitened if the arguments say so.

    Args:
        batch_size: real images per meta-loss, in each process.
        eval_batch_size: images in a batch of validation and testing.
        seed: seed of the order of the training images and of their augmentation.
        crop: random crop of training images, pixels of padding; 0 for none.
        flip: mirror training images left to right at random.
        rotate: maximum random rotation of training images, in degrees.
        scale: maximum fraction by which training images are stretched or shrunk at random.
        shift: maximum random shift of training images, in pixels; may be a fraction.
        whiten: ``"zca"`` for ZCA whitening, fitted on the training split, see `gtn_lightning.data.whitening`. Its time
            grows with the third power of the number of values of an image, and its matrix with the second: float16, 1.2
            MB for MNIST and 19 MB for CIFAR-10, also in exported files.
        whiten_regularization: what is added to the eigenvalues of the covariance of standardized images.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> import torch
        >>> from gtn_lightning.data import Split, Splits, TensorData
        >>> class Noise(TensorData):
        ...     def load(self):
        ...         images = torch.randint(256, (300, 1, 8, 8), dtype=torch.uint8)
        ...         everything = Split(images, torch.arange(300) % 10)
        ...         train, val, test = (everything.take(rows) for rows in torch.arange(300).chunk(3))
        ...         return Splits(train, val, test, classes=10)
        >>> data = Noise(batch_size=32, eval_batch_size=100)
        >>> data.setup()
        >>> data.image_shape, len(data.splits.train.images)
        ((1, 8, 8), 100)
    """

    samples_name = "images"

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
        whiten: str | None = None,
        whiten_regularization: float = 0.1,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        check_changes("data.", crop, rotate, scale, shift)
        if whiten not in (None, "zca"):
            raise RecipeError(f"data.whiten must be zca or null, got {whiten!r}")
        if not 0 < whiten_regularization < math.inf:
            raise RecipeError(f"data.whiten_regularization must be above 0 and finite, got {whiten_regularization}")
        # Stored under the arguments' names, from which a teacher file describes the data.
        self.crop = crop
        self.flip = flip
        self.rotate = rotate
        self.scale = scale
        self.shift = shift
        self.whiten = whiten
        self.whiten_regularization = whiten_regularization
        self.whitening: Whitening | None = None

    @abstractmethod
    def load(self) -> Splits:
        """Read the data. Called once in every process; the splits must not depend on ``seed``."""

    def measure(self, splits: tuple[Any, ...]) -> None:
        """Check the splits, compute the mean and standard deviation of each channel, and fit the whitening."""
        assert isinstance(splits, Splits)
        self._check(splits)
        images = splits.train.images
        self.mean, self.std = channel_statistics(images)
        if self.whiten:
            self.whitening = fit_whitening(images, self.mean, self.std, self.whiten_regularization)

    def _check(self, splits: Splits) -> None:
        shape = list(splits.train.images.shape[1:])
        for purpose, (images, labels) in zip(("train", "val", "test"), splits[:3], strict=True):
            subject = f"{type(self).__name__}.load: the split {purpose} has"
            if images.dtype != torch.uint8 or images.dim() != 4:
                raise RecipeError(
                    f"{subject} images that are {_form(images)}, expected uint8 [N, C, H, W]: return raw pixels, 0 to "
                    "255, which are normalized later"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                advice = ".argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else ".flatten().long()"
                raise RecipeError(
                    f"{subject} labels that are {_form(labels)} for {len(images)} images, expected int64 "
                    f"[{len(images)}]: return one class number per image, for instance by {advice}"
                )
            if list(images.shape[1:]) != shape:
                raise RecipeError(
                    f"{subject} images of shape {list(images.shape[1:])} and the split train of shape {shape}, "
                    "expected one shape: resize them first"
                )
            low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
            if low < 0 or high >= splits.classes:
                raise RecipeError(
                    f"{subject} labels from {low} to {high}, expected 0 to {splits.classes - 1} for {splits.classes} "
                    "classes: correct the labels or the number of classes"
                )

    @property
    def splits(self) -> Splits:
        """The three splits, not normalized, and the number of classes."""
        splits = super().splits
        assert isinstance(splits, Splits)
        return splits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.splits.train.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.splits.classes

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize raw images for a network.

        Args:
            images: uint8 ``[..., C, H, W]`` on any device.

        Returns:
            float32 of the same shape; over the training split, every channel has mean 0 and standard deviation 1 before
            the whitening.
        """
        mean, std = (value.to(images.device)[:, None, None] for value in (self.mean, self.std))
        standardized = (images.float() - mean) / std
        if self.whitening is None:
            return standardized
        if self.whitening.matrix.device != images.device:  # moved once, not for every batch
            self.whitening = Whitening(*(part.to(images.device) for part in self.whitening))
        return self.whitening.apply(standardized)

    def normalization(self) -> dict[str, Tensor]:
        """Return mean and standard deviation of each channel, ``[C, 1, 1]``, by the names in exported files.

        With whitening also `Whitening.tensors`.
        """
        tensors = {"normalize_center": self.mean[:, None, None], "normalize_scale": self.std[:, None, None]}
        return tensors if self.whitening is None else tensors | self.whitening.tensors()

    def pictured(self, inputs: Tensor) -> Tensor:
        """Return a learner's inputs ``[B, C, H, W]`` without whitening, as pictures show them."""
        return inputs if self.whitening is None else self.whitening.invert(inputs)

    def augment(self, inputs: Tensor, key: int) -> Tensor:
        """Return images with random crops, flips, rotations, scales and shifts, as the arguments say."""
        return augment(inputs, key, self.crop, self.flip, self.rotate, self.scale, self.shift)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of every channel.

    Args:
        images: uint8 ``[N, C, H, W]``.

    Returns:
        both float32 ``[C]``; the standard deviation of a constant channel is returned as 1.
    """
    # Counting the 256 values is exact, and needs no floating-point copy of the dataset.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    frequencies = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = frequencies @ values
    variance = (frequencies * (values - mean[:, None]) ** 2).sum(1)
    return mean.float(), torch.where(variance > 0, variance.sqrt(), 1.0).float()


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
