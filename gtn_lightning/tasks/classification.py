"""Classification of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.tasks.base import Task


class Classification(Task):
    """Cross-entropy inside and outside, accuracy as the metric.

    The meta-loss is the real-data loss of the learner after its last inner step, averaged with the losses after every
    ``meta_every``-th step before it: the paper takes every step on MNIST and every 16th on CIFAR-10.

    Args:
        classes: number of classes.
        meta_every: distance in inner steps between the points at which the meta-loss is taken; 0 for the last step
            alone.

    Raises:
        RecipeError: if a number cannot work.
    """

    metric_name = "accuracy"

    def __init__(self, classes: int, meta_every: int = 0) -> None:
        if classes < 2:
            raise RecipeError(f"Classification: classes must be at least 2; got {classes}")
        if meta_every < 0:
            raise RecipeError(f"Classification: meta_every must be at least 0; got {meta_every}")
        self.classes = classes
        self.meta_every = meta_every

    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the cross-entropy against hard labels ``[B]`` or class probabilities ``[B, classes]``."""

        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, inputs: Tensor, targets: Tensor
        ) -> tuple[Tensor, Buffers]:
            logits, buffers = learner(params, buffers, inputs)
            return F.cross_entropy(logits, targets), buffers

        return loss

    def meta_loss(self, learner: Functional) -> LossFn:
        """Return the cross-entropy on real data, the learner in training mode.

        In training mode batch normalisation uses the batch's own statistics, through which the meta-gradient is exact.
        """
        return self.inner_loss(learner)

    def meta_steps(self, steps: int) -> list[int]:
        """Return every ``meta_every``-th number of steps, and the last."""
        between = range(self.meta_every, steps, self.meta_every) if self.meta_every else ()
        return [*between, steps]

    def metric(self) -> Metric:
        """Return the accuracy, each image counting the same."""
        return MulticlassAccuracy(num_classes=self.classes, average="micro", sync_on_compute=False)

    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metric: Metric,
    ) -> Tensor:
        """Score a trained learner in evaluation mode; see the base class."""
        inputs, labels = batch
        logits, _ = learner(params, buffers, inputs, training=False)
        metric.update(logits, labels)
        return F.cross_entropy(logits, labels)

    def check(self, learner: nn.Module, batch: Sequence[Any]) -> None:
        """Raise ``RecipeError`` if images, labels, classes and the learner's output do not fit together."""
        inputs, labels = batch[0][:2], batch[1]
        name = type(learner).__name__
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.classes:
            raise RecipeError(
                f"the data has labels from {low} to {high} but task.classes is {self.classes}: "
                f"expected labels 0 to {self.classes - 1}; set classes to {high + 1} or correct the data"
            )
        shape = list(inputs.shape[1:])
        try:
            with torch.no_grad():
                logits = learner(inputs)
        except (RuntimeError, ValueError) as error:
            raise RecipeError(
                f"the learner {name} cannot take images of shape {shape}: {str(error).splitlines()[0]}; "
                "set its image_shape to the data's"
            ) from error
        if logits.shape != (len(inputs), self.classes):
            raise RecipeError(
                f"the learner {name} returns a tensor of shape {list(logits.shape)} for {len(inputs)} images but the "
                f"task has {self.classes} classes: expected [{len(inputs)}, {self.classes}]; make the "
                "learner's classes agree with task.classes"
            )
