"""What "taught" means: the interface between the meta-loop and whatever a learner is to learn."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from gtn_lightning.component import Component
from gtn_lightning.fields import Batch, Fields
from gtn_lightning.inner_loop import Buffers, Functional, InnerOptimizer, LossFn, Snapshot


@dataclass(frozen=True)
class TaskMetric:
    """A measure of how well a learner was taught."""

    name: str
    """Name under which it is logged, such as ``accuracy``."""
    make: Callable[[], Metric]
    """Makes a fresh scalar metric. It is never synchronized: every learner is scored by one process."""
    higher_is_better: bool = True
    """Whether more of it is better."""
    format: Literal["share", "number"] = "number"
    """How a value is printed: a ``share`` in per cent, a ``number`` as it is."""

    def text(self, value: float) -> str:
        """Return a value as people read it."""
        return f"{100 * value:.1f} %" if self.format == "share" else f"{value:.4g}"


@dataclass(frozen=True)
class BaselineSetting:
    """What a baseline may use."""

    train: Batch
    """Real training data."""
    tuning: Batch
    """Real data, none that is reported on, that decides between learning rates."""
    optimizer: InnerOptimizer
    """The inner optimizer."""
    batch_size: int
    """Samples per inner step."""
    steps: int
    """Number of inner steps."""
    scored_steps: list[int]
    """Numbers of inner steps after which learners are wanted."""
    rates: list[float]
    """Learning rates to choose from."""
    mode: str
    """How the inner gradient is computed, a key of ``gtn_lightning.inner_loop.MODES``."""


class Baseline(ABC):
    """What a learner reaches without the teacher, at the same cost.

    Attributes:
        name: suffix of what is logged, as in ``val/accuracy_real``.
        title: what pictures and tables call it.
        axis: what its cost is counted in, the horizontal axis of learning curves.
    """

    name: str = "real"
    title: str = "real data"
    axis: str = "inner steps"

    @abstractmethod
    def teach(self, learner: nn.Module, generator: torch.Generator) -> dict[int, Snapshot]:
        """Train a learner.

        Args:
            learner: the learner, left as it is.
            generator: where random choices come from, on the CPU.

        Returns:
            The learner at the wanted points of the axis, without any graph.
        """


@dataclass(frozen=True)
class Images:
    """A batch that is shown as images."""

    pixels: Tensor
    """``[B, C, H, W]``."""
    labels: Tensor | None
    """The class of each, int64 ``[B]``, by which they are sorted into rows; None for an unsorted grid."""


@dataclass(frozen=True)
class Points:
    """A batch that is shown as points of a plane, colored by a value."""

    rows: Tensor
    """``[B, D]``."""
    values: Tensor
    """A class, int64 ``[B]``, or a number, float ``[B]``."""


class Task(Component, ABC):
    """An inner loss on synthetic data, a meta-loss on real data, and metrics of how well a learner was taught.

    The module, the callbacks and the inner loop know a task by these methods alone.
    """

    @property
    @abstractmethod
    def fields(self) -> Fields:
        """What a teacher has to make, in the order in which the inner loss takes it."""

    @abstractmethod
    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the loss that the learner descends: ``(params, buffers, *fields) -> (loss, buffers)``."""

    @abstractmethod
    def meta_loss(self, learner: Functional) -> LossFn:
        """Return the loss that the teacher descends: ``(params, buffers, *real batch) -> (loss, buffers)``."""

    @abstractmethod
    def meta_steps(self, steps: int) -> list[int]:
        """Return after which numbers of inner steps, out of ``steps``, the meta-loss is taken, ascending."""

    def experience(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        generator: torch.Generator,
    ) -> Sequence[Any]:
        """Return the real data that the meta-loss of a taught learner is taken on; called without gradient.

        Here a task of reinforcement learning lets the taught learner act. Others take the batch as it is, as here.

        Args:
            learner: the learner as a pure function.
            params: its trained parameters.
            buffers: its buffers.
            batch: what the data module has handed over.
            generator: where random choices come from, on the CPU.
        """
        return batch

    @abstractmethod
    def metrics(self) -> list[TaskMetric]:
        """Return the metrics; the first decides between checkpoints, and stands in pictures and tables."""

    @abstractmethod
    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metrics: Sequence[Metric],
    ) -> Tensor:
        """Score a trained learner on one batch of real data.

        Args:
            learner: the learner as a pure function.
            params: its trained parameters.
            buffers: its buffers.
            batch: a batch of real data.
            metrics: what the metrics made, in their order; the batch is added to each.

        Returns:
            The mean loss on the batch, a scalar.
        """

    def baseline(self, setting: BaselineSetting) -> Baseline | None:
        """Return what the same learners are compared with; None, as here, for nothing."""
        return None

    def shown(self, batch: Batch) -> Images | Points | None:
        """Return how a batch of synthetic data is drawn; None, as here, if it is not."""
        return None

    def check_batch(self, batch: Sequence[Any], where: str) -> None:
        """Raise ``RecipeError`` if learners cannot be scored on a batch of real data, saying what to change.

        Called with every batch of validation and testing. A task that does not say takes all of them.

        Args:
            batch: a batch of real data.
            where: which data this is, in words for an error.
        """
        return

    @abstractmethod
    def check(self, learner: nn.Module, batch: Sequence[Any]) -> None:
        """Raise ``RecipeError`` if the learner cannot work on such a batch of real data, saying what to change."""
