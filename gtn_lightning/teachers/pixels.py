"""Free pixels: every image is a parameter, as in dataset distillation."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.teachers.base import SyntheticBatch, Teacher, TeacherInput, check_sizes
from gtn_lightning.teachers.generator import SHARPNESS


class Pixels(Teacher):
    """A fixed number of free images (dataset distillation, Wang et al., arXiv 1811.10959).

    It costs a gather per inner loop, where the generator's forward and backward passes can dominate a meta-step, and
    it has as many parameters as pixels.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        classes: number of classes.
        images: number of images; a curriculum's steps times its batch size.
        soft_labels: whether to learn the label probabilities of every image.

    Raises:
        RecipeError: if a size cannot work.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, images: int, soft_labels: bool = False) -> None:
        super().__init__()
        check_sizes("Pixels", image_shape, classes)
        if images < classes:
            raise RecipeError(f"Pixels: images must be at least the {classes} classes; got {images}")
        self.image_shape = image_shape
        self.classes = classes
        self.images = images
        self.soft_labels = soft_labels
        self.pool = images
        self.pixels = nn.Parameter(torch.randn(images, *image_shape))
        # Row i is relative to the one-hot label that the curriculum asks of image i, whichever that is.
        self.label_logits = nn.Parameter(torch.zeros(images, classes)) if soft_labels else None

    def forward(self, index: Tensor, labels: Tensor, noise: Tensor | None) -> SyntheticBatch:
        """Gather one inner batch; see the base class. The noise is ignored."""
        targets = labels if self.label_logits is None else self._probabilities(self.label_logits[index], labels)
        return SyntheticBatch(self.pixels[index], targets, labels)

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[SyntheticBatch]:
        """Gather the images of all inner steps at once.

        The derivative of every gather is a tensor as large as the pool: one per meta-step is enough.
        """
        if not requests:
            return
        index = torch.stack([request.index for request in requests])
        images = self.pixels[index].unbind()
        logits = None if self.label_logits is None else self.label_logits[index].unbind()
        for step, request in enumerate(requests):
            targets = request.labels if logits is None else self._probabilities(logits[step], request.labels)
            yield SyntheticBatch(images[step], targets, request.labels)

    def _probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(labels, self.classes).to(logits.dtype)
        return (logits + SHARPNESS * one_hot).softmax(dim=1)
