"""The task of autoencoding: data without labels."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, Metric

from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.fields import Batch, Field, Fields
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.labels import check_labels, class_numbers
from gtn_lightning.probe import probes
from gtn_lightning.task import Images, Points, TaskMetric
from gtn_lightning.tasks.with_samples import WithSamples


class Autoencoding(WithSamples):
    """Reconstruction with squared error as inner loss and meta-loss; no label enters either.

    A learner returns a pair: reconstructions of the shape of its inputs, and codes ``[B, code]``. Besides the error,
    the codes can be scored by a linear probe, which needs real labels: `RidgeProbe`, fitted on half of the scored
    samples.

    Args:
        shape: shape of one input, such as ``[1, 28, 28]``.
        classes: number of classes of the real labels, for the probes; None for data without labels.
        meta_every: see `WithSamples`.

    Raises:
        RecipeError: if a number is out of range.

    Examples:
        >>> from gtn_lightning.tasks import Autoencoding
        >>> task = Autoencoding(shape=(1, 8, 8), classes=10)
        >>> list(task.fields), [metric.name for metric in task.metrics()]
        (['inputs'], ['mse', 'probe', 'probe_few'])
    """

    def __init__(self, shape: tuple[int, ...], classes: int | None = None, meta_every: int = 0) -> None:
        super().__init__(meta_every)
        if classes is not None and classes < 2:
            raise RecipeError(f"Autoencoding: classes must be at least 2, got {classes}")
        self.shape = tuple(shape)
        self.classes = classes

    @property
    def fields(self) -> Fields:
        """Inputs alone."""
        return {"inputs": Field("real", self.shape)}

    @property
    def real_fields(self) -> Fields:
        """Inputs, and for the probes their labels."""
        labels = {} if self.classes is None else {"labels": Field("classes", classes=self.classes)}
        return self.fields | labels

    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the mean squared error of the reconstructions; the labels of real data are passed over."""

        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, inputs: Tensor, *labels: Tensor
        ) -> tuple[Tensor, Buffers]:
            (outputs, _), buffers = learner(params, buffers, inputs)
            return F.mse_loss(outputs, inputs), buffers

        return loss

    def metrics(self) -> list[TaskMetric]:
        """Return the error ``mse``; with labels also the accuracies of probes with all of them and with 1 %."""
        error = TaskMetric("mse", partial(MeanSquaredError, sync_on_compute=False), higher_is_better=False)
        made = {} if self.classes is None else probes(self.classes)
        return [error, *(TaskMetric(name, make, format="share") for name, make in made.items())]

    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metrics: Sequence[Metric],
    ) -> Tensor:
        """Score a trained learner in evaluation mode; see the base class."""
        inputs = batch[0]
        (outputs, codes), _ = learner(params, buffers, inputs, training=False)
        error, *probes = metrics
        error.update(outputs.float().flatten(1), inputs.float().flatten(1))
        for probe in probes:
            probe.update(codes, class_numbers(batch[1]))
        return F.mse_loss(outputs, inputs)

    def shown(self, batch: Batch) -> Images | Points:
        """Return images without classes, other inputs as points of one color."""
        inputs = batch["inputs"]
        if inputs.dim() == 4:
            return Images(inputs, None)
        return Points(inputs.flatten(1), torch.zeros(len(inputs), dtype=torch.int64))

    def check_batch(self, batch: Any, where: str) -> None:
        """Raise ``RecipeError`` unless inputs have the task's shape, and labels are its classes."""
        if tuple(batch[0].shape[1:]) != self.shape:
            raise RecipeError(
                f"{where} has inputs of shape {list(batch[0].shape[1:])} but model.task.shape is {list(self.shape)}: "
                "make them agree"
            )
        if self.classes is not None:
            check_labels(batch[0], batch[1], self.classes, where)

    def check(self, learner: nn.Module, batch: Any) -> None:
        """Raise ``RecipeError`` if the learner is no autoencoder of the data."""
        self.check_batch(batch, "the data")
        inputs, name = batch[0][:2], type(learner).__name__
        expected = f"expected a pair: reconstructions {list(inputs.shape)} and codes [{len(inputs)}, ...]"
        try:
            with torch.no_grad():
                outputs = learner(inputs)
        except Exception as error:
            raise RecipeError(
                f"the learner {name} cannot take inputs of shape {list(self.shape)}: {first_line(error)}: make its "
                "layers fit inputs of this shape"
            ) from error
        if not isinstance(outputs, tuple) or len(outputs) != 2 or not all(isinstance(o, Tensor) for o in outputs):
            raise RecipeError(f"the learner {name} returns a {type(outputs).__name__}, {expected}")
        if outputs[0].shape != inputs.shape:
            raise RecipeError(f"the learner {name} returns reconstructions {list(outputs[0].shape)}, {expected}")
