"""Evaluation: teach never-seen learners, score them on real data, and compare with the baseline."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from gtn_lightning.baseline_cache import KeptBaseline
from gtn_lightning.baselines import RealDataBaseline
from gtn_lightning.data import InMemoryData
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, checksum, chosen
from gtn_lightning.inner_loop import Functional, Snapshot
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs
from gtn_lightning.lightning import pl
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.real_data import TrainerData
from gtn_lightning.task import Baseline, BaselineSetting, Task, Taught
from gtn_lightning.teachers import RealData
from gtn_lightning.teaching import synthetic_batch, teach
from gtn_lightning.trust import is_known

REAL_SAMPLES = 10_000
"""Maximum number of real training samples for the baseline and for a RealData teacher."""

TUNING_SAMPLES = 1_000
"""Maximum number of validation samples on which the baseline's learning rate is chosen."""


@dataclass(frozen=True)
class Evaluation:
    """Settings of the evaluation of a teacher.

    Args:
        learners: number of learners K taught at validation and test.
        steps: numbers of inner steps after which they are scored; T is always added. None for about five up to T.
        real_rates: the learning rates from which the real-data baseline chooses the best.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> from gtn_lightning.evaluation import Evaluation
        >>> Evaluation(learners=5).scored_steps(32)
        [2, 4, 8, 16, 32]
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
        """Return the numbers of inner steps, at most ``steps``, after which learners are scored, ascending."""
        if self.steps is None:
            return sorted({-(-steps // 2**power) for power in range(5)})
        return sorted({*self.steps, steps})


EVALUATION = Evaluation()
"""The default settings."""


@dataclass
class EvaluationResult:
    """Scores of learners after several numbers of inner steps, on synthetic data and of the baseline."""

    steps: list[int]
    """Numbers of inner steps, ascending; the last is the whole inner loop."""
    metrics: dict[str, Tensor]
    """The task's metrics after these steps on synthetic data, ``[learners, len(steps)]`` each, in the task's order."""
    baselines: dict[str, Tensor] | None
    """The baseline's metrics of the same learners; None without a baseline."""
    losses: Tensor
    """The task's loss after the last step on synthetic data, ``[learners]``."""
    baseline_name: str = "real"
    """The baseline's name in logs."""
    baseline_title: str = "real data"
    """The baseline's name in pictures and tables."""
    axis: str = "inner steps"
    """The unit of the steps, for the axis of pictures."""

    @property
    def synthetic(self) -> Tensor:
        """The leading metric on synthetic data, ``[learners, len(steps)]``."""
        return next(iter(self.metrics.values()))

    @property
    def baseline(self) -> Tensor | None:
        """The leading metric of the baseline, ``[learners, len(steps)]``; None without a baseline."""
        return None if self.baselines is None else next(iter(self.baselines.values()))

    @property
    def sources(self) -> list[tuple[str, str, Tensor]]:
        """Synthetic data and, if there is one, the baseline: name, title, and the leading metric as `synthetic`."""
        sources = [("synthetic", "synthetic data", self.synthetic)]
        if self.baseline is not None:
            sources.append((self.baseline_name, self.baseline_title, self.baseline))
        return sources

    def logged(self) -> dict[str, Tensor]:
        """Return the values to log: means and standard deviations over learners after the last step."""
        logged: dict[str, Tensor] = {}
        for suffix, metrics in (("", self.metrics), (f"_{self.baseline_name}", self.baselines or {})):
            for name, values in metrics.items():
                last = values[:, -1]
                logged |= {f"{name}{suffix}": last.mean(), f"{name}{suffix}_std": last.std(correction=0)}
        return logged


@dataclass
class _Learner:
    """A taught learner and the metrics of its scoring."""

    learner: Functional
    snapshots: dict[int, Snapshot]
    metrics: dict[int, list[Metric]] = field(default_factory=dict)
    loss: MeanMetric = field(default_factory=lambda: MeanMetric(sync_on_compute=False))


class Scores:
    """Scores taught learners on real data, batch by batch, after several numbers of inner steps.

    Under DDP each process scores its own share of the learners on all of the data; the result is the sum of the tables
    of all processes.

    Args:
        task: the learners' task.
        learners: number of learners over all processes.
        steps: the numbers of inner steps after which they are scored, ascending.
        device: device of the metrics.
    """

    def __init__(self, task: Task, learners: int, steps: Sequence[int], device: torch.device) -> None:
        self._task = task
        self._size = learners
        self._steps = list(steps)
        self._device = device
        self._metrics = task.metrics()
        self._learners: dict[int, _Learner] = {}

    def add(self, number: int, learner: nn.Module, snapshots: dict[int, Snapshot]) -> None:
        """Add learner ``number`` with its snapshots after each number of steps."""
        entry = _Learner(Functional(learner), snapshots)
        entry.metrics = {step: [metric.fresh(self._device) for metric in self._metrics] for step in self._steps}
        entry.loss.to(self._device)
        self._learners[number] = entry

    def update(self, batch: Any, generator: torch.Generator) -> None:
        """Score every added learner on one batch of real data.

        Args:
            batch: a batch of the data module.
            generator: a CPU generator for random choices.
        """
        entries = [(entry, step) for entry in self._learners.values() for step in self._steps]
        taught = [Taught(entry.learner, *entry.snapshots[step]) for entry, step in entries]
        experience = self._task.experience(taught, batch, generator, training=False)
        for (entry, step), each, real in zip(entries, taught, experience, strict=True):
            loss = self._task.score(each.learner, each.params, each.buffers, real, entry.metrics[step])
            if step == self._steps[-1]:  # the only loss that is reported
                entry.loss.update(loss, weight=len(real[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the table."""
        return self._size, len(self._metrics) * len(self._steps) + 1

    def table(self) -> Tensor:
        """Return every learner's scores: each metric after every number of steps, then the loss.

        Returns:
            ``[learners, metrics * len(steps) + 1]``, with rows of zeros for learners of other processes.
        """
        table = torch.zeros(self.shape, dtype=torch.float64, device=self._device)
        for number, entry in self._learners.items():
            values = [
                entry.metrics[step][place].compute() for place in range(len(self._metrics)) for step in self._steps
            ]
            table[number] = torch.stack([*values, entry.loss.compute()]).to(table)
        return table

    def by_name(self, table: Tensor) -> dict[str, Tensor]:
        """Return the metrics of a table, the sum of all processes' tables, ``[learners, len(steps)]`` each."""
        parts = table[:, :-1].split(len(self._steps), dim=1)
        return {metric.name: part for metric, part in zip(self._metrics, parts, strict=True)}


class Evaluator:
    """Teaches never-seen learners on synthetic data, and scores them and the task's baseline on real data.

    The learners depend on the seed alone; each process teaches a share of them.

    Args:
        parts: the parts of a GTN.
        evaluation: the settings.

    Raises:
        RecipeError: if learners are to be scored after more inner steps than there are.
    """

    def __init__(self, parts: Parts, evaluation: Evaluation) -> None:
        if not isinstance(evaluation, Evaluation):
            raise RecipeError(f"model.evaluation: expected an Evaluation, got a {type(evaluation).__name__}")
        most = parts.inner_loop.steps
        if outside := [step for step in evaluation.steps or () if step > most]:
            raise RecipeError(
                f"model.evaluation.steps must be at most model.inner_loop.steps, {most}, got {outside[0]}"
            )
        self.graphs: CudaGraphs | None = None
        """Captures the teaching of learners of one architecture, during meta-training on a GPU."""
        self._parts = parts
        self._settings = evaluation
        self._data = TrainerData(parts)
        self._steps = evaluation.scored_steps(most)
        self._scores: dict[str, Scores] = {}
        self._baseline: Baseline | None = None
        self._baseline_setting: BaselineSetting | None = None
        self._kept: KeptBaseline | None = None
        self.reset()

    def reset(self) -> None:
        """Drop real data and baselines: a new run may use other data."""
        self._prepared = False
        self._baselines: dict[str, dict[str, Tensor]] = {}
        self._data.reset()

    def prepare(self, module: pl.LightningModule) -> None:
        """Fetch real data for baseline and teacher, and check that it fits all parts, once per run.

        Args:
            module: the module that a trainer runs.

        Raises:
            RecipeError: if data, teacher, learners and task do not fit together.
        """
        if self._prepared:
            return
        with torch.inference_mode(False), module.trainer.precision_plugin.forward_context():
            train = self._data.take(module, "train", REAL_SAMPLES)
            tuning = self._data.take(module, "val", TUNING_SAMPLES)
            # A test on a DataLoader alone keeps the baseline and the teacher's data of the fit before.
            if self._parts.task.real_fields is None or (train is not None and tuning is not None):
                self._baseline_setting = self._setting(train, tuning)
                self._baseline = self._parts.task.baseline(self._baseline_setting)
            elif module.trainer.datamodule is not None:  # type: ignore[attr-defined]  # other data than that of the fit
                self._baseline = None
            if train is not None:
                self._parts.teacher.attach(train)
            if self._parts.teacher.needs_real_data and not module.trainer.sanity_checking:
                name, task = type(self._parts.teacher).__name__, type(self._parts.task).__name__
                if self._parts.task.real_fields is None:
                    raise RecipeError(
                        f"the {name} teacher needs real samples, and {task} has none: use init noise, or another one"
                    )
                raise RecipeError(f"the {name} teacher needs a data module with a train_dataloader")
            teacher, requested = self._parts.teacher, self._parts.curriculum.pool or 0
            if isinstance(teacher, RealData) and 0 < teacher.size < requested:
                raise RecipeError(
                    f"model.curriculum must request at most {teacher.size} different samples, the size of the RealData "
                    f"teacher, got {requested}"
                )
        # Without a data module, there is no training data yet at the sanity check.
        self._prepared = train is not None or self._parts.task.real_fields is None

    def _setting(self, train: Batch | None, tuning: Batch | None) -> BaselineSetting:
        return BaselineSetting(
            train,
            tuning,
            self._parts.curriculum.pool,
            self._parts.inner_optimizer,
            self._parts.curriculum.batch_size,
            self._parts.inner_loop.steps,
            self._steps,
            self._settings.real_rates,
            self._parts.inner_loop.mode,
        )

    def begin(self, module: pl.LightningModule, split: str) -> None:
        """Teach this process's share of the learners.

        Args:
            module: the module that a trainer runs.
            split: ``val`` or ``test``.
        """
        self.prepare(module)
        self._data.check_split(module, split, lambda: self._synthetic(module.device))
        trainer, size = module.trainer, self._settings.learners
        self._kept = None
        self._scores = {"synthetic": Scores(self._parts.task, size, self._steps, module.device)}
        # The baseline does not change during a fit: learners and real data depend on the seed alone.
        missing = self._baseline is not None and split in self._baseline.splits and split not in self._baselines
        if missing and not trainer.sanity_checking:
            scores = Scores(self._parts.task, size, self._steps, module.device)
            self._kept = self._kept_baseline(module, split)
            table = None
            if self._kept is not None:
                own = self._kept.read(scores.shape) if trainer.is_global_zero else None
                table = trainer.strategy.broadcast(own)
            if table is None:
                self._scores["baseline"] = scores
            else:
                self._baselines[split] = scores.by_name(table)
        for number in range(trainer.global_rank, size, trainer.world_size):
            self._teach(module, split, number)

    def _kept_baseline(self, module: pl.LightningModule, split: str) -> KeptBaseline | None:
        """Return where the baseline's scores are kept between runs, None if they may depend on code of others."""
        trainer, parts, setting = module.trainer, self._parts, self._baseline_setting
        data = trainer.datamodule  # type: ignore[attr-defined]  # the trainer sets it when it runs
        if not isinstance(self._baseline, RealDataBaseline) or not isinstance(data, InMemoryData) or setting is None:
            return None
        named = (parts.teacher, parts.curriculum, parts.learners, parts.inner_optimizer, parts.task)
        try:
            described = [describe(part) for part in named]
        except (RecipeError, ValueError):  # no file can describe them
            return None
        own = all(type(each).__module__.startswith("gtn_lightning.") for each in (module, data))
        if not own or not is_known(described):
            return None
        assert setting.train is not None
        assert setting.tuning is not None
        limit = trainer.limit_val_batches if split == "val" else trainer.limit_test_batches
        settings = {
            "parts": described[1:],  # without the teacher
            "seed": parts.seed,
            "evaluation": [self._settings.learners, self._steps, self._settings.real_rates, setting.mode],
            "data": [data.digest(), checksum(setting.train), checksum(setting.tuning)],
            "scored": [data.eval_batch_size, limit],
            "precision": [trainer.precision, torch.get_float32_matmul_precision(), module.device.type],
        }
        return KeptBaseline(split, settings)

    def _teach(self, module: pl.LightningModule, split: str, number: int) -> None:
        with self._lesson(module, (split, number), self._steps) as (learner, taught, generator):
            self._scores["synthetic"].add(number, learner, taught)
            if "baseline" in self._scores:
                assert self._baseline is not None
                self._scores["baseline"].add(number, learner, self._baseline.teach(learner, generator))

    def fresh(self, module: pl.LightningModule, steps: Sequence[int], *key: int | str) -> list[Taught]:
        """Return a fresh learner after some numbers of inner steps, a function of the run's seed and of a key.

        Args:
            module: the module that a trainer runs.
            steps: the numbers of inner steps.
            key: purpose of the learner.
        """
        with self._lesson(module, key, list(steps)) as (learner, taught, _):
            return [Taught(Functional(learner), taught[step].params, taught[step].buffers) for step in steps]

    @contextmanager
    def _lesson(
        self, module: pl.LightningModule, key: Sequence[int | str], steps: list[int]
    ) -> Iterator[tuple[nn.Module, dict[int, Snapshot], torch.Generator]]:
        """Teach a learner; yield it, it after each of ``steps``, and its random numbers, in the state for more."""
        # Lightning sets the trainer's precision in training_step, but not in the hook that calls this.
        precision = module.trainer.precision_plugin.forward_context()
        parts, device = self._parts, module.device
        with torch.inference_mode(False), precision, keyed_rng(parts.seed, *key, device=device):
            generator = keyed_generator(parts.seed, *key)
            learner = parts.learners.sample(generator).to(device)
            with torch.no_grad():
                requests = parts.curriculum.requests(generator, device)
            mode = parts.inner_loop.mode
            taught = teach(
                learner, parts.task, parts.teacher, requests, parts.inner_optimizer, steps, mode, self.graphs
            )
            yield learner, taught, generator

    def _synthetic(self, device: torch.device) -> list[Tensor]:
        batch = synthetic_batch(self._parts.teacher, self._parts.curriculum, self._parts.seed, 0, device)
        return chosen(batch, self._parts.task.fields)

    def score(self, batch: Any, split: str, number: int) -> None:
        """Score the taught learners on a batch of real data.

        Args:
            batch: the batch.
            split: ``val`` or ``test``.
            number: number of the batch in the split.

        Raises:
            RecipeError: if the batch does not fit learners and task.
        """
        batch = self._data.scorable(batch, split)
        for scores in self._scores.values():
            # Keyed by the batch: the same in every validation.
            scores.update(batch, keyed_generator(self._parts.seed, "experience", split, number))

    def finish(self, module: pl.LightningModule, split: str) -> EvaluationResult:
        """Return the scores of all processes' learners.

        Args:
            module: the module that a trainer runs.
            split: ``val`` or ``test``.
        """
        # Each process has the rows of its learners, and zeros in the other rows.
        tables = {
            source: module.trainer.strategy.reduce(scores.table(), reduce_op="sum").cpu()
            for source, scores in self._scores.items()
        }
        scores, self._scores = self._scores["synthetic"], {}
        if "baseline" in tables:
            self._baselines[split] = scores.by_name(tables["baseline"])
            if self._kept is not None and module.trainer.is_global_zero:
                self._kept.write(tables["baseline"])
        synthetic = tables["synthetic"]
        result = EvaluationResult(self._steps, scores.by_name(synthetic), self._baselines.get(split), synthetic[:, -1])
        if self._baseline is not None:
            baseline = self._baseline
            result.baseline_name, result.baseline_title, result.axis = baseline.name, baseline.title, baseline.axis
        return result
