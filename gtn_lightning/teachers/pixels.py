"""Free pixels: every image is a parameter, as in dataset distillation."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.labels import class_numbers
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
        init: what the images begin as: ``"noise"``, or ``"real"`` training images of the classes that the curriculum
            asks for, which teach from the first meta-step on.

    Raises:
        RecipeError: if a size cannot work or ``init`` is neither.
    """

    started: Tensor
    """1 once real images have been copied, so that no later run begins anew."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        images: int,
        soft_labels: bool = False,
        init: str = "noise",
    ) -> None:
        super().__init__()
        check_sizes("Pixels", image_shape, classes)
        if images < classes:
            raise RecipeError(f"Pixels: images must be at least the {classes} classes; got {images}")
        if init not in ("noise", "real"):
            raise RecipeError(f"Pixels: init {init!r} is unknown: use noise or real")
        self.image_shape = image_shape
        self.classes = classes
        self.images = images
        self.soft_labels = soft_labels
        self.init = init
        self.pool = images
        self.pixels = nn.Parameter(torch.randn(images, *image_shape))
        self.register_buffer("started", torch.tensor(int(init == "noise"), dtype=torch.uint8))
        # Row i is relative to the one-hot label that the curriculum asks of image i, whichever that is.
        self.label_logits = nn.Parameter(torch.zeros(images, classes)) if soft_labels else None

    def attach(self, images: Tensor, labels: Tensor) -> None:
        """Copy real images, once: image i becomes one of class i modulo the number of classes.

        Where labels are class probabilities, an image is one of its most probable class.

        Raises:
            RecipeError: if there is no real image of some class.
        """
        if self.started:
            return
        numbers = class_numbers(labels)
        with torch.no_grad():
            for label in range(self.classes):
                rows = (numbers == label).nonzero()[:, 0]
                if not len(rows):
                    raise RecipeError(
                        f"Pixels: init is real, but among {len(labels)} real images none is of class {label}"
                    )
                wanted = self.pixels[label :: self.classes]
                wanted.copy_(images[rows[torch.arange(len(wanted), device=rows.device) % len(rows)]])
            self.started.fill_(1)

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
