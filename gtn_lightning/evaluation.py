"""Evaluation: teach never-seen learners, score them on real data, and the baseline beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from gtn_lightning.curricula import Curriculum, ShuffledPasses
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import Functional, InnerLoop, InnerOptimizer, Snapshot
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.real_data import TrainerData
from gtn_lightning.tasks import Task
from gtn_lightning.teachers import RealData, Teacher
from gtn_lightning.teaching import synthetic_batch, teach, teach_at_best_rate

REAL_IMAGES = 10_000
"""The largest number of real training images for the baseline and for a RealData teacher."""

TUNING_IMAGES = 1_000
"""The largest number of validation images that decide on the baseline's rate."""


@dataclass(frozen=True)
class Evaluation:
    """How a teacher is evaluated.

    Args:
        learners: number of learners K taught at validation and test.
        steps: numbers of inner steps at which they are scored; T is always among them. None for about five up to T.
        real_rates: the learning rates from which the real-data baseline takes the best.

    Raises:
        RecipeError: if a value is out of range.
    """

    learners: int = 10
    steps: list[int] | None = None
    real_rates: list[float] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3, 1.0])

    def __post_init__(self) -> None:
        if self.learners < 1:
            raise RecipeError(f"evaluation.learners must be at least 1, got {self.learners}")
        if outside := [step for step in self.steps or () if step < 0]:
            raise RecipeError(f"evaluation.steps must be at least 0, got {outside[0]}")
        if not self.real_rates or min(self.real_rates) <= 0:
            raise RecipeError(
                f"evaluation.real_rates must be positive learning rates, at least one, got {self.real_rates}"
            )

    def scored_steps(self, steps: int) -> list[int]:
        """Return the numbers of inner steps, out of ``steps``, at which learners are scored, ascending."""
        if self.steps is None:
            return sorted({-(-steps // 2**power) for power in range(5)})
        return sorted({*self.steps, steps})


@dataclass
class EvaluationResult:
    """How well learners do against the number of inner steps they were taught for."""

    steps: list[int]
    """Numbers of inner steps, ascending; the last is the whole inner loop."""
    synthetic: Tensor
    """The task's metric after these steps on synthetic data, ``[learners, len(steps)]``."""
    real: Tensor | None
    """The same learners after as many steps on real data, the rate of each tuned; None without real training data."""
    losses: Tensor
    """The task's loss after the last step on synthetic data, ``[learners]``."""

    def logged(self, name: str) -> dict[str, Tensor]:
        """Return the numbers to log, for a metric called ``name``: means and standard deviations over learners."""
        last = self.synthetic[:, -1]
        logged = {name: last.mean(), f"{name}_std": last.std(correction=0)}
        if self.real is not None:
            last = self.real[:, -1]
            logged |= {f"{name}_real": last.mean(), f"{name}_real_std": last.std(correction=0)}
        return logged


@dataclass
class _Learner:
    """A taught learner while it is being scored."""

    learner: Functional
    snapshots: dict[int, Snapshot]
    metrics: dict[int, Metric] = field(default_factory=dict)
    loss: MeanMetric = field(default_factory=lambda: MeanMetric(sync_on_compute=False))


class Scores:
    """Scores taught learners on real data, batch by batch, at several numbers of inner steps.

    Under DDP each process scores its own share of the learners on all of the data; the tables of all processes add up.

    Args:
        task: what the learners were taught.
        learners: number of learners over all processes.
        steps: the numbers of inner steps at which they are scored, ascending.
        device: where the metrics live.
    """

    def __init__(self, task: Task, learners: int, steps: Sequence[int], device: torch.device) -> None:
        self._task = task
        self._size = learners
        self._steps = list(steps)
        self._device = device
        self._learners: dict[int, _Learner] = {}

    def add(self, number: int, learner: nn.Module, snapshots: dict[int, Snapshot]) -> None:
        """Enter learner ``number`` as it was after each number of steps."""
        entry = _Learner(Functional(learner), snapshots)
        entry.metrics = {step: self._task.metric().to(self._device) for step in self._steps}
        entry.loss.to(self._device)
        self._learners[number] = entry

    def update(self, batch: Sequence[Any]) -> None:
        """Score every learner entered on one batch of real data."""
        for entry in self._learners.values():
            for step in self._steps:
                params, buffers = entry.snapshots[step]
                loss = self._task.score(entry.learner, params, buffers, batch, entry.metrics[step])
            # The loss after the last step alone is reported.
            entry.loss.update(loss, weight=len(batch[0]))

    def table(self) -> Tensor:
        """Return every learner's metric at every number of steps and then its loss, ``[learners, len(steps) + 1]``.

        Learners that were not entered here have rows of zeros.
        """
        table = torch.zeros(self._size, len(self._steps) + 1, dtype=torch.float64, device=self._device)
        for number, entry in self._learners.items():
            values = [entry.metrics[step].compute() for step in self._steps]
            table[number] = torch.stack([*values, entry.loss.compute()]).to(table)
        return table


class Evaluator:
    """Teaches never-seen learners on synthetic data, and beside it on as many steps of real data.

    The learners are keyed by the seed alone and shared out over the processes.

    Args:
        evaluation: how many learners are taught, and where they are scored.
        task: what they are taught.
        teacher: makes the synthetic data.
        curriculum: which teacher input each inner step sees.
        learners: the distribution of the learners.
        optimizer: the inner optimizer.
        inner_loop: how the inner loop is run.
        seed: seed of every random choice.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        task: Task,
        teacher: Teacher,
        curriculum: Curriculum,
        learners: LearnerDistribution,
        optimizer: InnerOptimizer,
        inner_loop: InnerLoop,
        seed: int,
    ) -> None:
        self._settings = evaluation
        self._task = task
        self._teacher = teacher
        self._curriculum = curriculum
        self._learners = learners
        self._optimizer = optimizer
        self._loop = inner_loop
        self._seed = seed
        self._data = TrainerData(task, learners, teacher.image_shape, seed)
        self._steps = evaluation.scored_steps(inner_loop.steps)
        self._scores: dict[str, Scores] = {}
        self._real: RealData | None = None
        self._tuning_batch: Sequence[Any] | None = None
        self.reset()

    def reset(self) -> None:
        """Drop real data and baselines: a new run may use other data."""
        self._prepared = False
        self._baselines: dict[str, Tensor] = {}
        self._data.reset()

    def prepare(self, module: pl.LightningModule) -> None:
        """Fetch real data for baseline and teacher, and check that all parts fit, once per run.

        Args:
            module: the module that a trainer runs.

        Raises:
            RecipeError: if data, teacher, learners and task do not fit together.
        """
        if self._prepared:
            return
        with torch.inference_mode(False), module.trainer.precision_plugin.forward_context():
            images = self._data.take(module, "train", REAL_IMAGES)
            tuning = self._data.take(module, "val", TUNING_IMAGES)
            # A test on a lone DataLoader goes on with the real data that was trained on.
            if images is not None and tuning is not None:
                self._tuning_batch = tuning
                self._real = RealData(self._teacher.image_shape, self._teacher.classes)
                self._real.attach(*images)
            if images is not None:
                self._teacher.attach(*images)
            if isinstance(self._teacher, RealData):
                if images is None:
                    raise RecipeError("the RealData teacher needs a data module with a train_dataloader")
                if (self._curriculum.pool or 0) > self._teacher.size:
                    raise RecipeError(
                        f"model.curriculum asks for {self._curriculum.pool} different images but the RealData teacher "
                        f"has {self._teacher.size} real ones: ask for no more than that"
                    )
        # Without a data module the training data comes later than the sanity check.
        self._prepared = images is not None

    def begin(self, module: pl.LightningModule, split: str) -> None:
        """Teach this process's share of the learners.

        Args:
            module: the module that a trainer runs.
            split: ``val`` or ``test``.
        """
        self.prepare(module)
        self._data.check_split(module, split, lambda: self._synthetic(module.device))
        trainer, size = module.trainer, self._settings.learners
        self._scores = {"synthetic": Scores(self._task, size, self._steps, module.device)}
        # The baseline does not change during a fit: the learners and the real data are keyed by the seed alone.
        if self._real is not None and split not in self._baselines and not trainer.sanity_checking:
            self._scores["real"] = Scores(self._task, size, self._steps, module.device)
        for number in range(trainer.global_rank, size, trainer.world_size):
            self._teach(module, split, number)

    def _teach(self, module: pl.LightningModule, split: str, number: int) -> None:
        key = (split, number)
        # In the hook that this is called from the trainer's precision is not set yet, as it is in training_step.
        precision = module.trainer.precision_plugin.forward_context()
        with torch.inference_mode(False), precision, keyed_rng(self._seed, *key, device=module.device):
            generator = keyed_generator(self._seed, *key)
            learner = self._learners.sample(generator).to(module.device)
            with torch.no_grad():
                requests = self._curriculum.requests(generator, module.device)
            mode = self._loop.mode
            taught = teach(learner, self._task, self._teacher, requests, self._optimizer, self._steps, mode)
            self._scores["synthetic"].add(number, learner, taught)
            if "real" not in self._scores:
                return
            assert self._real is not None
            assert self._tuning_batch is not None
            passes = ShuffledPasses(
                self._loop.steps, self._curriculum.batch_size, self._curriculum.classes, self._real.size
            )
            _, taught = teach_at_best_rate(
                learner,
                self._task,
                self._real,
                passes.requests(generator, module.device),
                self._optimizer,
                self._steps,
                self._settings.real_rates,
                self._tuning_batch,
                mode,
            )
            self._scores["real"].add(number, learner, taught)

    def _synthetic(self, device: torch.device) -> tuple[Tensor, Tensor]:
        made = synthetic_batch(self._teacher, self._curriculum, self._seed, 0, device)
        return made.inputs, made.labels

    def score(self, batch: Any, split: str) -> None:
        """Score the taught learners on a batch of real data.

        Raises:
            RecipeError: if they cannot be scored on it.
        """
        batch = self._data.scorable(batch, split)
        for scores in self._scores.values():
            scores.update(batch)

    def finish(self, module: pl.LightningModule, split: str) -> EvaluationResult:
        """Return the scores of all processes' learners.

        Args:
            module: the module that a trainer runs.
            split: ``val`` or ``test``.
        """
        # Every process has a share of the rows and zeros in the others.
        tables = {
            source: module.trainer.strategy.reduce(scores.table(), reduce_op="sum").cpu()
            for source, scores in self._scores.items()
        }
        self._scores = {}
        if "real" in tables:
            self._baselines[split] = tables["real"][:, :-1]
        synthetic = tables["synthetic"]
        return EvaluationResult(self._steps, synthetic[:, :-1], self._baselines.get(split), synthetic[:, -1])
