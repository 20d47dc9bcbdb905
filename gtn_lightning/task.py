"""The interface of tasks: losses, metrics and baseline, by which the rest of the package knows a task."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from gtn_lightning.component import Component
from gtn_lightning.fields import Batch, Fields
from gtn_lightning.inner_loop import Buffers, Functional, InnerOptimizer, LossFn, Params, Snapshot


@dataclass(frozen=True)
class TaskMetric:
    """A metric of taught learners, with its direction and format."""

    name: str
    """Name in logs, such as ``accuracy``."""
    make: Callable[[], Metric]
    """Returns a fresh scalar metric; `fresh` takes care that processes do not synchronize it."""
    higher_is_better: bool = True
    """Whether higher values are better."""
    format: Literal["share", "number"] = "number"
    """Format of printed values: a ``share`` in per cent, or a plain ``number``."""

    def fresh(self, device: torch.device) -> Metric:
        """Return a new metric on a device, which the processes do not synchronize."""
        metric = self.make().to(device)
        metric.distributed_available_fn = lambda: False
        return metric

    def utility(self, value: float) -> float:
        """Return a value of which more is better, -inf for none."""
        value = value if self.higher_is_better else -value
        return -math.inf if math.isnan(value) else value

    def text(self, value: float) -> str:
        """Return a value as text, in the metric's format."""
        return f"{100 * value:.1f} %" if self.format == "share" else f"{value:.4g}"


class Taught(NamedTuple):
    """A taught learner."""

    learner: Functional
    """The learner as a pure function."""
    params: Params
    """Its trained parameters."""
    buffers: Buffers
    """Its buffers."""


@dataclass(frozen=True)
class BaselineSetting:
    """Data and settings for a baseline."""

    train: Batch | None
    """Real training data; None if the task has no real samples."""
    tuning: Batch | None
    """Real data to choose the learning rate on, disjoint from the test split; None if the task has no real samples."""
    pool: int | None
    """Number of different samples that the teacher is asked for; None for endlessly many."""
    optimizer: InnerOptimizer
    """The inner optimizer."""
    batch_size: int
    """Samples per inner step."""
    steps: int
    """Number of inner steps."""
    scored_steps: list[int]
    """Numbers of inner steps after which learners are scored."""
    rates: list[float]
    """Learning rates to choose from."""
    mode: str
    """How the inner gradient is computed, a key of ``gtn_lightning.inner_loop.MODES``."""


class Baseline(ABC):
    """Training of a learner without the teacher, at the same cost.

    Attributes:
        name: suffix of its metrics in logs, as in ``val/accuracy_real``.
        title: its name in pictures and tables.
        axis: unit of its cost, the horizontal axis of learning curves.
        splits: the splits on which it is scored, of ``val`` and ``test``.
    """

    name: str = "real"
    title: str = "real data"
    axis: str = "inner steps"
    splits: tuple[str, ...] = ("val", "test")

    @abstractmethod
    def teach(self, learner: nn.Module, generator: torch.Generator) -> dict[int, Snapshot]:
        """Train a learner.

        Args:
            learner: the learner, not changed.
            generator: a CPU generator for random choices.

        Returns:
            The learner after each of the setting's ``scored_steps``, detached from any graph.
        """


@dataclass(frozen=True)
class Images:
    """A batch to draw as images."""

    pixels: Tensor
    """``[B, C, H, W]``."""
    labels: Tensor | None
    """The class of each, int64 ``[B]``, by which the rows of the grid are sorted; None for an unsorted grid."""
    noun: str = "class"
    """The word for labels."""


@dataclass(frozen=True)
class Points:
    """A batch to draw as points in a plane, colored by a value."""

    rows: Tensor
    """``[B, D]``."""
    values: Tensor
    """A class, int64 ``[B]``, or a number, float ``[B]``."""
    axes: tuple[str, str] | None = None
    """Names of the first two columns, which are then the plane; None for the plane of the principal components."""
    noun: str = "class"
    """The word for whole-number values in the legend."""


class Task(Component, ABC):
    """An inner loss on synthetic data, a meta-loss on real data, and metrics of taught learners.

    The module and the callbacks use a task through these methods only.
    """

    @property
    @abstractmethod
    def fields(self) -> Fields:
        """The fields of the inner loss, in the order of its arguments; the teacher must make them."""

    @property
    def real_fields(self) -> Fields | None:
        """The fields of a batch of real data, in the data module's order; by default, those of the inner loss.

        None if the batches are no tensors but what `experience` alone can use, such as environments.
        """
        return self.fields

    @abstractmethod
    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the learner's loss on synthetic data: ``(params, buffers, *fields) -> (loss, buffers)``."""

    @property
    def exported_loss(self) -> str | None:
        """The inner loss by its name in ``torch.nn.functional``, for programs that train on exported data.

        None, the default, if it is another function.
        """
        return None

    def exported(self, batch: Batch) -> Batch:
        """Return a synthetic batch such that `exported_loss` takes its fields; by default, unchanged."""
        return batch

    @abstractmethod
    def meta_loss(self, learner: Functional) -> LossFn:
        """Return the learner's loss on real data, which trains the teacher.

        It is a function ``(params, buffers, *real batch) -> (loss, buffers)``.
        """

    @abstractmethod
    def meta_steps(self, steps: int) -> list[int]:
        """Return the numbers of inner steps, at most ``steps``, after which the meta-loss is taken, ascending."""

    def experience(
        self, taught: Sequence[Taught], batch: Any, generator: torch.Generator, training: bool
    ) -> Sequence[Sequence[Any]]:
        """Return the real data for the meta-loss or the scores of each taught learner; called without gradient.

        By default, it is the batch of the data module. In reinforcement learning, the learners act here, all at once.

        Args:
            taught: the learners.
            batch: a batch of the data module.
            generator: a CPU generator for random choices.
            training: whether it is for `meta_loss`, otherwise for `score`.
        """
        # A loader of inputs alone may yield a bare tensor.
        return [(batch,) if isinstance(batch, Tensor) else batch] * len(taught)

    @abstractmethod
    def metrics(self) -> list[TaskMetric]:
        """Return the metrics; the first selects the checkpoint, and is the one in pictures and tables."""

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
            batch: real data, what `experience` returned for this learner.
            metrics: made by `metrics`, in the same order; each is updated with the batch.

        Returns:
            The mean loss on the batch, a scalar.
        """

    def baseline(self, setting: BaselineSetting) -> Baseline | None:
        """Return the baseline for the same learners; by default None, for no baseline."""
        return None

    def shown(self, batch: Batch) -> Images | Points | None:
        """Return a batch of synthetic data in a form to draw; by default None, for no picture."""
        return None

    def check_batch(self, batch: Any, where: str) -> None:
        """Raise ``RecipeError`` if learners cannot be scored on a batch of real data; by default, accept all batches.

        Called with every batch of validation and testing. The message says what to change.

        Args:
            batch: a batch of real data.
            where: name of the data, for error messages.
        """
        return

    @abstractmethod
    def check(self, learner: nn.Module, batch: Any) -> None:
        """Raise ``RecipeError``, which says what to change, if learner and batch of real data do not fit together."""
