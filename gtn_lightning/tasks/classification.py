"""Classification of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.labels import check_labels, class_numbers
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
            return cross_entropy(logits, targets), buffers

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
        metric.update(logits, class_numbers(labels))
        return cross_entropy(logits, labels)

    def check_batch(self, batch: Sequence[Any], where: str) -> None:
        """Raise ``RecipeError`` unless labels are classes or class probabilities; see the base class."""
        images, labels = batch
        check_labels(images, labels, self.classes, where)

    def check(self, learner: nn.Module, batch: Sequence[Any]) -> None:
        """Raise ``RecipeError`` if images, labels, classes and the learner's output do not fit together."""
        self.check_batch(batch, "the data")
        images = batch[0][:2]
        if len(images) == 1:  # batch normalisation cannot train on a single one
            images = torch.cat([images, images])
        name = type(learner).__name__
        try:
            with torch.no_grad():
                logits = learner(images)
        except Exception as error:
            raise RecipeError(_why(learner, images, error)) from error
        expected = f"expected one tensor of class scores, [{len(images)}, {self.classes}]"
        if not isinstance(logits, Tensor):
            raise RecipeError(
                f"the learner {name} returns a {type(logits).__name__} for {len(images)} images, {expected}: "
                f"{_advice_on_output(logits)}"
            )
        if not logits.is_floating_point():
            raise RecipeError(
                f"the learner {name} returns numbers of type {str(logits.dtype).removeprefix('torch.')}, {expected}: "
                "return the scores before argmax, as floating point numbers"
            )
        if logits.shape != (len(images), self.classes):
            raise RecipeError(
                f"the learner {name} returns a tensor of shape {list(logits.shape)} for {len(images)} images but the "
                f"task has {self.classes} classes: expected [{len(images)}, {self.classes}]; make the "
                "learner's classes agree with task.classes"
            )
        if not logits.isfinite().all():
            raise RecipeError(
                f"the learner {name} returns NaN or infinity for images of the data before its first step: correct "
                "its forward, or how its parameters begin"
            )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy against classes, int64 ``[B]``, or class probabilities, float ``[B, classes]``.

    Probabilities need not have the logits' type, but half precision computes with wider ones in theirs.
    """
    if targets.is_floating_point():
        narrow = torch.finfo(logits.dtype).bits < 32
        dtype = torch.promote_types(logits.dtype, targets.dtype) if narrow else logits.dtype
        logits, targets = logits.to(dtype), targets.to(dtype)
    return F.cross_entropy(logits, targets)


def _why(learner: nn.Module, images: Tensor, error: Exception) -> str:
    """Say in one line why a learner fails on images, and what to change."""
    name, shape = type(learner).__name__, list(images.shape[1:])
    types = {parameter.dtype for parameter in learner.parameters() if parameter.is_floating_point()}
    if types and images.dtype not in types:
        own, given = (str(dtype).removeprefix("torch.") for dtype in (next(iter(types)), images.dtype))
        return (
            f"the learner {name} has parameters of type {own} but the trainer's precision makes images {given}: leave "
            "out what converts the learner, or set trainer.precision"
        )
    own_shape = getattr(learner, "image_shape", None)
    advice = "make its layers fit images of this shape"
    if isinstance(error, TypeError | NotImplementedError):
        advice = "give it a forward that takes a batch of images alone"
    elif own_shape is not None and list(own_shape) != shape:
        advice = "set its image_shape to the data's"
    return f"the learner {name} cannot take images of shape {shape}: {first_line(error)}; {advice}"


def _advice_on_output(output: Any) -> str:
    """Say what to return instead of something that is no tensor."""
    if hasattr(output, "logits") or (isinstance(output, Mapping) and "logits" in output):
        return "return its logits alone"
    if isinstance(output, Sequence | Mapping):
        return f"return one of its {len(output)} parts alone"
    return "return the scores alone"
