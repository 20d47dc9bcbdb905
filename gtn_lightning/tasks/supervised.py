"""Base class of tasks with inputs and targets: losses, scores, and the baseline of real data."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.fields import Batch
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.labels import class_numbers
from gtn_lightning.task import Images, Points
from gtn_lightning.tasks.with_samples import WithSamples
from gtn_lightning.teachers.base import LABELS


class Supervised(WithSamples):
    """A task with inputs and targets, and one criterion for both the inner loss and the meta-loss.

    Args:
        shape: shape of one input, such as ``[1, 28, 28]``; None for the teacher's.
        outputs: number of values that the learner returns per input.
        meta_every: see `WithSamples`.

    Raises:
        RecipeError: if a number is out of range.
    """

    output_name: str = "outputs"
    """The word for the learner's outputs in messages."""

    def __init__(self, shape: tuple[int, ...] | None, outputs: int, meta_every: int) -> None:
        super().__init__(meta_every)
        self.shape = None if shape is None else tuple(shape)
        self.outputs = outputs

    @abstractmethod
    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            outputs: the learner's outputs, ``[B, outputs]``.
            targets: the targets of the batch.
        """

    def compared(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arguments of the metrics' ``update``; by default, outputs and targets unchanged."""
        return outputs, targets

    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the criterion on synthetic data, the learner in training mode."""

        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, inputs: Tensor, targets: Tensor
        ) -> tuple[Tensor, Buffers]:
            outputs, buffers = learner(params, buffers, inputs)
            return self.criterion(outputs, targets), buffers

        return loss

    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metrics: Sequence[Metric],
    ) -> Tensor:
        """Score a trained learner in evaluation mode; see the base class."""
        inputs, targets = batch
        outputs, _ = learner(params, buffers, inputs, training=False)
        for metric in metrics:
            metric.update(*self.compared(outputs, targets))
        return self.criterion(outputs, targets)

    def shown(self, batch: Batch) -> Images | Points | None:
        """Return images with their classes, and rows of a table as points colored by their target."""
        inputs, targets = batch["inputs"], batch["targets"]
        labels = batch.get(LABELS)
        if labels is None:
            labels = class_numbers(targets) if self.fields["targets"].classes else None
        if inputs.dim() == 4:
            return Images(inputs, labels)
        return Points(inputs.flatten(1), targets.flatten(1)[:, 0] if labels is None else labels)

    def check(self, learner: nn.Module, batch: Sequence[Any]) -> None:
        """Raise ``RecipeError`` if inputs, targets and the learner's outputs do not fit together."""
        self.check_batch(batch, "the data")
        inputs = batch[0][:2]
        if len(inputs) == 1:  # batch normalization cannot train on a single sample
            inputs = torch.cat([inputs, inputs])
        name, noun = type(learner).__name__, "images" if inputs.dim() == 4 else "inputs"
        try:
            with torch.no_grad():
                outputs = learner(inputs)
        except Exception as error:
            raise RecipeError(_failure(learner, inputs, noun, error)) from error
        expected = f"expected one tensor of {self.output_name}, [{len(inputs)}, {self.outputs}]"
        if not isinstance(outputs, Tensor):
            raise RecipeError(
                f"the learner {name} returns a {type(outputs).__name__} for {len(inputs)} {noun}, {expected}: "
                f"{_advice_on_output(outputs)}"
            )
        if not outputs.is_floating_point():
            raise RecipeError(
                f"the learner {name} returns numbers of type {str(outputs.dtype).removeprefix('torch.')}, {expected}: "
                "return the scores before argmax, as floating point numbers"
            )
        if outputs.shape != (len(inputs), self.outputs):
            raise RecipeError(self._wrong_outputs(name, f"{len(inputs)} {noun}", outputs))
        if not outputs.isfinite().all():
            raise RecipeError(
                f"the learner {name} returns NaN or infinity for {noun} of the data before its first step: correct "
                "its forward or its initialization"
            )

    def _wrong_outputs(self, learner: str, inputs: str, outputs: Tensor) -> str:
        return (
            f"the learner {learner} returns a tensor of shape {list(outputs.shape)} for {inputs} but the task has "
            f"{self.outputs} {self.output_name}, expected [{inputs.split()[0]}, {self.outputs}]: make the learner's "
            "outputs agree with the task's"
        )


def _failure(learner: nn.Module, inputs: Tensor, noun: str, error: Exception) -> str:
    """Return a message of one line: why a learner fails on inputs, and what to change."""
    name, shape = type(learner).__name__, list(inputs.shape[1:])
    types = {parameter.dtype for parameter in learner.parameters() if parameter.is_floating_point()}
    if types and inputs.dtype not in types:
        own_type, input_type = (str(dtype).removeprefix("torch.") for dtype in (next(iter(types)), inputs.dtype))
        return (
            f"the learner {name} has parameters of type {own_type} but the trainer's precision makes {noun} "
            f"{input_type}: do not convert the learner, or set trainer.precision"
        )
    key = "image_shape" if hasattr(learner, "image_shape") else "shape"
    own_shape = getattr(learner, key, None)
    advice = f"make its layers fit {noun} of this shape"
    if isinstance(error, TypeError | NotImplementedError):
        advice = f"give it a forward that takes only a batch of {noun}"
    elif own_shape is not None and list(own_shape) != shape:
        advice = f"set its {key} to the data's"
    return f"the learner {name} cannot take {noun} of shape {shape}: {first_line(error)}: {advice}"


def _advice_on_output(output: Any) -> str:
    """Return advice for a learner that does not return a tensor."""
    if hasattr(output, "logits") or (isinstance(output, Mapping) and "logits" in output):
        return "return its logits alone"
    if isinstance(output, Sequence | Mapping):
        return f"return one of its {len(output)} parts alone"
    return "return the scores alone"
