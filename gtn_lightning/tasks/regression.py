"""The task of regression."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.regression import MeanSquaredError, R2Score

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Field, Fields
from gtn_lightning.task import TaskMetric
from gtn_lightning.tasks.supervised import Supervised


class Regression(Supervised):
    """Regression with mean squared error as inner loss and meta-loss, and RMSE and R2 as metrics.

    Args:
        outputs: number of values to predict per input.
        meta_every: number of inner steps between two meta-losses; 0 for a meta-loss after the last step only. See
            `WithSamples`.
        shape: shape of one input, such as ``[13]``; None for the teacher's.

    Raises:
        RecipeError: if a number is out of range.

    Examples:
        >>> from gtn_lightning.tasks import Regression
        >>> [metric.name for metric in Regression(outputs=1, shape=(10,)).metrics()]
        ['rmse', 'r2']
    """

    def __init__(self, outputs: int = 1, meta_every: int = 0, shape: tuple[int, ...] | None = None) -> None:
        if outputs < 1:
            raise RecipeError(f"{type(self).__name__}: outputs must be at least 1, got {outputs}")
        super().__init__(shape, outputs, meta_every)

    @property
    def fields(self) -> Fields:
        """Inputs, and real numbers as targets."""
        return {"inputs": Field("real", self.shape), "targets": Field("real", (self.outputs,))}

    @property
    def exported_loss(self) -> str | None:
        """The mean squared error, unless a subclass has another criterion."""
        return "mse_loss" if type(self).criterion is Regression.criterion else None

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error against targets ``[B, outputs]``."""
        return F.mse_loss(outputs, targets.to(outputs.dtype))

    def metrics(self) -> list[TaskMetric]:
        """Return ``rmse``, the root mean squared error, and ``r2``, the coefficient of determination."""
        error = partial(MeanSquaredError, squared=False, sync_on_compute=False)
        explained = partial(R2Score, sync_on_compute=False)
        return [TaskMetric("rmse", error, higher_is_better=False), TaskMetric("r2", explained)]

    def compared(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs and targets in full precision, flat if there is one value per input."""
        parts = (part.float().squeeze(1) if self.outputs == 1 else part.float() for part in (outputs, targets))
        outputs, targets = parts
        return outputs.contiguous(), targets.contiguous()

    def check_batch(self, batch: Sequence[Any], where: str) -> None:
        """Raise ``RecipeError`` unless targets are finite numbers ``[B, outputs]``; see the base class."""
        inputs, targets = batch
        kind = f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape)}"
        if not targets.is_floating_point() or targets.shape != (len(inputs), self.outputs):
            raise RecipeError(
                f"{where} has targets that are {kind} for {len(inputs)} inputs, expected floating point numbers "
                f"[{len(inputs)}, {self.outputs}]: convert them, or correct task.outputs"
            )
        if not targets.isfinite().all():
            wrong = int((~targets.isfinite()).any(dim=1).sum())
            raise RecipeError(
                f"{where} has targets with NaN or infinity, {wrong} of {len(targets)} that were checked: leave them "
                "out or correct them"
            )
