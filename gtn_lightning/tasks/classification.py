"""The task of classification."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Field, Fields
from gtn_lightning.labels import check_labels, class_numbers
from gtn_lightning.task import TaskMetric
from gtn_lightning.tasks.supervised import Supervised


class Classification(Supervised):
    """Classification with cross-entropy as inner loss and meta-loss, and accuracy as metric.

    Args:
        classes: number of classes.
        meta_every: number of inner steps between two meta-losses; 0 for a meta-loss after the last step only. See
            `WithSamples`.
        shape: shape of one input, such as ``[1, 28, 28]``; None for the teacher's.

    Raises:
        RecipeError: if a number is out of range.

    Examples:
        >>> from gtn_lightning.tasks import Classification
        >>> task = Classification(classes=10, shape=(1, 8, 8))
        >>> list(task.fields), [metric.name for metric in task.metrics()]
        (['inputs', 'targets'], ['accuracy'])
    """

    output_name = "classes"

    def __init__(self, classes: int, meta_every: int = 0, shape: tuple[int, ...] | None = None) -> None:
        if classes < 2:
            raise RecipeError(f"Classification: classes must be at least 2, got {classes}")
        super().__init__(shape, classes, meta_every)
        self.classes = classes

    @property
    def fields(self) -> Fields:
        """Inputs, and classes as targets; a teacher may make class probabilities instead."""
        return {"inputs": Field("real", self.shape), "targets": Field("classes", classes=self.classes)}

    @property
    def exported_loss(self) -> str | None:
        """The cross-entropy, unless a subclass has another criterion."""
        return "cross_entropy" if type(self).criterion is Classification.criterion else None

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy against hard labels ``[B]`` or class probabilities ``[B, classes]``."""
        return cross_entropy(outputs, targets)

    def compared(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and the most probable class of each target."""
        return outputs, class_numbers(targets)

    def metrics(self) -> list[TaskMetric]:
        """Return the accuracy, micro-averaged over all samples."""
        make = partial(MulticlassAccuracy, num_classes=self.classes, average="micro", sync_on_compute=False)
        return [TaskMetric("accuracy", make, format="share")]

    def check_batch(self, batch: Sequence[Any], where: str) -> None:
        """Raise ``RecipeError`` unless labels are classes or class probabilities; see the base class."""
        inputs, labels = batch
        check_labels(inputs, labels, self.classes, where)

    def _wrong_outputs(self, learner: str, inputs: str, outputs: Tensor) -> str:
        return (
            f"the learner {learner} returns a tensor of shape {list(outputs.shape)} for {inputs} but the "
            f"task has {self.classes} classes, expected [{inputs.split()[0]}, {self.classes}]: make the "
            "learner's classes agree with task.classes"
        )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy against classes, int64 ``[B]``, or class probabilities, float ``[B, classes]``.

    Probabilities may have another type than the logits; half-precision logits are converted to a wider type of the
    probabilities.
    """
    if targets.is_floating_point():
        narrow = torch.finfo(logits.dtype).bits < 32
        dtype = torch.promote_types(logits.dtype, targets.dtype) if narrow else logits.dtype
        logits, targets = logits.to(dtype), targets.to(dtype)
    return F.cross_entropy(logits, targets)
