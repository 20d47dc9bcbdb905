"""What "taught" means: the interface between the meta-loop and whatever a learner is to learn."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from gtn_lightning.component import Component
from gtn_lightning.inner_loop import Buffers, Functional, LossFn


class Task(Component, ABC):
    """An inner loss on synthetic data, a meta-loss on real data, and a metric of how well a learner was taught.

    The module, the callbacks and the inner loop know a task by these methods alone.

    Attributes:
        metric_name: name under which the metric is logged.
        higher_is_better: whether more of the metric is better.
    """

    metric_name: str
    higher_is_better: bool = True

    @abstractmethod
    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the loss that the learner descends: ``(params, buffers, inputs, targets) -> (loss, buffers)``."""

    @abstractmethod
    def meta_loss(self, learner: Functional) -> LossFn:
        """Return the loss that the teacher descends: ``(params, buffers, *real batch) -> (loss, buffers)``."""

    @abstractmethod
    def meta_steps(self, steps: int) -> list[int]:
        """Return after which numbers of inner steps, out of ``steps``, the meta-loss is taken, ascending."""

    @abstractmethod
    def metric(self) -> Metric:
        """Return a fresh scalar metric. It is never synchronised: every learner is scored by one process."""

    @abstractmethod
    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metric: Metric,
    ) -> Tensor:
        """Score a trained learner on one batch of real data.

        Args:
            learner: the learner as a pure function.
            params: its trained parameters.
            buffers: its buffers.
            batch: a batch of real data.
            metric: what ``metric()`` returned; the batch is added to it.

        Returns:
            The mean loss on the batch, a scalar.
        """

    def check_batch(self, batch: Sequence[Any], where: str) -> None:
        """Raise ``RecipeError`` if learners cannot be scored on a batch of real data, saying what to change.

        Called with every batch of validation and testing. A task that does not say takes all of them.

        Args:
            batch: images as the learners see them, and their targets.
            where: which data this is, in words for an error.
        """
        return

    @abstractmethod
    def check(self, learner: nn.Module, batch: Sequence[Any]) -> None:
        """Raise ``RecipeError`` if the learner cannot work on such a batch of real data, saying what to change."""
