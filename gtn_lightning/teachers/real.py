"""Real data as a teacher: the baseline that any synthetic data has to beat, through the same harness."""

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.labels import class_numbers
from gtn_lightning.teachers.base import SyntheticBatch, Teacher, check_sizes


class RealData(Teacher):
    """Teach with real training images.

    It has no parameters; what is meta-learned beside it are the inner hyperparameters. The images come from the data
    module's training split: ``GTN`` hands them over when training or evaluation starts.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        classes: number of classes.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        check_sizes("RealData", image_shape, classes)
        self.image_shape = image_shape
        self.classes = classes
        self._images: Tensor | None = None
        self._targets: Tensor | None = None
        self._labels: Tensor | None = None

    def attach(self, images: Tensor, labels: Tensor) -> None:
        """Keep the images to teach with; see the base class."""
        targets = labels.to(images.dtype) if labels.is_floating_point() else labels
        self._images, self._targets, self._labels = images, targets, class_numbers(labels)

    @property
    def size(self) -> int:
        """Number of images it was given, 0 before that."""
        return 0 if self._labels is None else len(self._labels)

    def forward(self, index: Tensor, labels: Tensor, noise: Tensor | None) -> SyntheticBatch:
        """Take the images that the index names, modulo their number; the labels are theirs, not those asked for."""
        if self._images is None or self._targets is None or self._labels is None:
            raise RecipeError("RealData has no images yet: train or evaluate it through a Trainer with a data module")
        rows = torch.remainder(index, len(self._labels)).to(self._labels.device)
        return SyntheticBatch(self._images[rows], self._targets[rows], self._labels[rows])
