"""The task of representation: regression to learned features, data without labels."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torchmetrics import MeanSquaredError, Metric

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Field, Fields
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.labels import check_labels, class_numbers
from gtn_lightning.probe import probes
from gtn_lightning.task import TaskMetric
from gtn_lightning.tasks.regression import Regression


class Representation(Regression):
    """Regression to a representation, with squared error as inner loss and meta-loss; no label enters either.

    The teacher makes inputs together with targets, as KRR-ST does (Lee et al., arXiv 2310.06511). The targets of real
    inputs are the features of a fixed self-supervised network, for instance those of `RepresentationData`. Besides the
    error, the learner's outputs can be scored by a linear probe, which needs real labels: `RidgeProbe`, fitted on half
    of the scored samples.

    Args:
        outputs: number of features, which the learner returns per input.
        classes: number of classes of the real labels, for the probes; None for pairs of inputs and targets alone.
        meta_every: see `WithSamples`.
        shape: shape of one input, such as ``[1, 28, 28]``; None for the teacher's.

    Raises:
        RecipeError: if a number is out of range.

    Examples:
        >>> from gtn_lightning.tasks import Representation
        >>> task = Representation(outputs=64, shape=(1, 8, 8))
        >>> task.fields["targets"].sample_shape, [metric.name for metric in task.metrics()]
        ((64,), ['mse'])
    """

    def __init__(
        self,
        outputs: int,
        classes: int | None = None,
        meta_every: int = 0,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(outputs, meta_every, shape)
        if classes is not None and classes < 2:
            raise RecipeError(f"Representation: classes must be at least 2, got {classes}")
        self.classes = classes

    @property
    def real_fields(self) -> Fields:
        """Inputs, features, and for the probes the labels."""
        labels = {} if self.classes is None else {"labels": Field("classes", classes=self.classes)}
        return self.fields | labels

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error, of operators that torch can differentiate in forward mode too."""
        return (outputs - targets.to(outputs.dtype)).square().mean()

    def meta_loss(self, learner: Functional) -> LossFn:
        """Return the inner loss on real data, whose labels are passed over."""
        inner = self.inner_loss(learner)

        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, inputs: Tensor, targets: Tensor, *labels: Tensor
        ) -> tuple[Tensor, Buffers]:
            return inner(params, buffers, inputs, targets)

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
        inputs, targets = batch[:2]
        outputs, _ = learner(params, buffers, inputs, training=False)
        error, *linear = metrics
        error.update(*self.compared(outputs, targets))
        for probe in linear:
            probe.update(outputs, class_numbers(batch[2]))
        return self.criterion(outputs, targets)

    def check_batch(self, batch: Sequence[Any], where: str) -> None:
        """Raise ``RecipeError`` unless targets are finite numbers ``[B, outputs]``, and labels are the classes."""
        super().check_batch(batch[:2], where)
        if self.classes is not None:
            check_labels(batch[0], batch[2], self.classes, where)
