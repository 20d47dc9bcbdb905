"""The LightningModule of a Generative Teaching Network: one training step is one meta-step."""

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gtn_lightning.curricula import Curriculum
from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import EVALUATION, Evaluation, EvaluationResult, Evaluator
from gtn_lightning.fields import Batch
from gtn_lightning.inner_loop import InnerLoop, InnerOptimizer
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.lightning import LRSchedulerCallable, OptimizerCallable, OptimizerLRScheduler, TrainerFn, pl
from gtn_lightning.meta_training.ahead import Ahead
from gtn_lightning.meta_training.checkpoints import read_module
from gtn_lightning.meta_training.cost import Cost
from gtn_lightning.meta_training.gradients import MetaGradient, MetaStep, OuterGradient
from gtn_lightning.meta_training.outer import OuterOptimization, meta_learned
from gtn_lightning.meta_training.recovery import Recovery
from gtn_lightning.meta_training.replicas import check_agreement
from gtn_lightning.meta_training.resumption import Resumption, check_checkpoint
from gtn_lightning.meta_training.step import Experience, meta_step, mode_of
from gtn_lightning.meta_training.trainer_options import check_trainer
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.real_data import counts
from gtn_lightning.task import Task, Taught
from gtn_lightning.teacher_file import (
    check_sizes,
    check_state,
    load_weights,
    read_meta_training,
    read_recipe,
    read_shapes,
    write_teacher,
)
from gtn_lightning.teachers import Teacher
from gtn_lightning.teaching import synthetic_batch
from gtn_lightning.trust import Trusted


class GTN(pl.LightningModule):
    """A Generative Teaching Network (Such et al., arXiv 1912.07768).

    Each meta-step samples a fresh learner, trains it for ``inner_loop.steps`` steps on the teacher's data, and returns
    its loss on Lightning's batch of real data. Optimization is automatic, so that DDP, gradient clipping, accumulation
    and mixed precision work as for any module.

    Validation and test teach never-seen learners on synthetic data, and on the same number of steps of real data with
    the best of several learning rates on validation data. The learners depend on the seed alone; each process teaches
    a share of them.

    Logged: ``train/meta_loss``, ``train/inner_loss`` (of the last inner step), ``train/skipped`` (number of meta-steps
    with a non-finite gradient so far), ``time/meta_step`` (seconds), and for ``val`` and ``test`` the task's metrics,
    for instance ``val/accuracy`` (mean over learners), ``val/accuracy_std``, ``val/accuracy_real``,
    ``val/accuracy_real_std`` and ``val/loss``; and what a data module counts, such as ``train/env_steps``.

    Args:
        teacher: makes the data.
        curriculum: makes the teacher's input at each inner step.
        learners: the distribution of the networks that are taught.
        inner_optimizer: the inner optimizer, with its learned hyperparameters.
        task: losses and metrics of the learners.
        inner_loop: number of inner steps, and how they are differentiated.
        outer_optimizer: makes the outer optimizer from the meta-parameters; default Adam with rate 0.01.
        outer_lr_scheduler: makes the schedule of the outer learning rate, stepped after every meta-step.
        outer_groups: options of the outer optimizer for one part of the meta-parameters, by its name: ``teacher``,
            ``curriculum`` or ``inner_optimizer``, for instance ``{inner_optimizer: {lr: 0.001}}``. By default, weight
            decay acts on the teacher only.
        population: number of learners taught on the same data per meta-step, of one architecture by default; the
            distribution can change this, and how their losses are combined, by default by their mean. Learners that
            differ in more than parameters and buffers are taught one after the other.
        outer_gradient: how the gradient of the meta-loss is found; None for the exact one, `MetaGradient`.
        recovery: handling of non-finite meta-gradients; None for `Recovery` with its defaults.
        evaluation: settings of the evaluation.
        seed: seed of every random choice.

    Raises:
        RecipeError: if the parts do not fit together.

    Examples:
        >>> from functools import partial
        >>> from gtn_lightning import GTN
        >>> from gtn_lightning.curricula import Full
        >>> from gtn_lightning.inner_loop import SGD, InnerLoop
        >>> from gtn_lightning.learners import MLP, Fixed
        >>> from gtn_lightning.tasks import Classification
        >>> from gtn_lightning.teachers import Pixels
        >>> gtn = GTN(
        ...     teacher=Pixels(image_shape=(1, 8, 8), classes=10, images=60),
        ...     curriculum=Full(steps=3, batch_size=20, classes=10),
        ...     learners=Fixed(partial(MLP, shape=(1, 8, 8), outputs=10)),
        ...     inner_optimizer=SGD(lr=0.1, learned_per_step=["lr"], steps=3),
        ...     task=Classification(classes=10),
        ...     inner_loop=InnerLoop(steps=3, mode="remat"),
        ... )
        >>> gtn.synthetic_batch(0)["inputs"].shape
        torch.Size([20, 1, 8, 8])
        >>> gtn.save_teacher("teacher.safetensors")  # after Trainer(max_steps=600).fit(gtn, DigitsData())
        >>> GTN.from_teacher("teacher.safetensors").inner_loop.steps
        3
    """

    def __init__(
        self,
        teacher: Teacher,
        curriculum: Curriculum,
        learners: LearnerDistribution,
        inner_optimizer: InnerOptimizer,
        task: Task,
        inner_loop: InnerLoop,
        outer_optimizer: OptimizerCallable | None = None,
        outer_lr_scheduler: LRSchedulerCallable | None = None,
        outer_groups: dict[str, dict[str, Any]] | None = None,
        population: int = 1,
        outer_gradient: OuterGradient | None = None,
        recovery: Recovery | None = None,
        evaluation: Evaluation = EVALUATION,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._parts = Parts(teacher, curriculum, learners, inner_optimizer, task, inner_loop, seed)
        self._evaluator = Evaluator(self._parts, evaluation)
        if population < 1:
            raise RecipeError(f"model.population must be at least 1, got {population}")
        self.teacher = teacher
        self.curriculum = curriculum
        self.learners = learners
        self.inner_optimizer = inner_optimizer
        self.task = task
        self.inner_loop = inner_loop
        self.outer_optimizer = outer_optimizer
        self.outer_lr_scheduler = outer_lr_scheduler
        self.outer_groups = outer_groups
        self.population = population
        self.outer_gradient = outer_gradient or MetaGradient()
        self.recovery = recovery or Recovery()
        self.evaluation = evaluation
        self.seed = seed
        self.result: EvaluationResult | None = None
        """Scores of the last validation or test, on every process."""
        self._cost = Cost()
        self._resumption = Resumption(self.recovery, self._cost)
        with suppress(RecipeError, ValueError):  # a part that no file can describe is an error only for `gtn fit`
            self.save_hyperparameters({"model": self.description()})
        self._meta_loss: Tensor | None = None
        self._experience: Experience = {}
        self._graphs: CudaGraphs | None = None
        self._ahead: Ahead | None = None
        self._step_began = 0.0
        self._mode: str | None = None

    # --------------------------------------------------------------------------------------------------------- files

    @classmethod
    def from_teacher(cls, path: str | Path, trust: Trusted = ()) -> "GTN":
        """Load a teacher file, the small self-describing one that ``gtn fit`` writes beside its checkpoints.

        Args:
            path: the teacher file.
            trust: allowed classes in addition to this package's, or names of them or of their modules. Files of this
                user's own runs need none.

        Raises:
            RecipeError: if it is not a teacher file, is damaged, or names a class that is not allowed.
        """
        recipe = read_recipe(path, trust)
        check_sizes(recipe.model, read_shapes(path), str(path), recipe.trust)
        gtn = cls.from_description(recipe.model, recipe.trust)
        gtn.load_teacher(path)
        return gtn

    def load_teacher(self, path: str | Path) -> None:
        """Load the tensors of a teacher file of the same recipe, and the cost of its meta-training.

        Args:
            path: the teacher file.

        Raises:
            RecipeError: if it is not a teacher file or was written for another architecture.
        """
        load_weights(self, path)
        self._cost.restore(read_meta_training(path) or {})

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's takes arguments of any kind
        cls, checkpoint_path: str | Path, map_location: Any = None, trust: Trusted = ()
    ) -> "GTN":
        """Load the module of a checkpoint, without the arguments that only training needs.

        Args:
            checkpoint_path: the checkpoint.
            map_location: device of its tensors; None for the CPU.
            trust: allowed classes in addition to this package's, or names of them or of their modules.

        Raises:
            RecipeError: if it is not a checkpoint of a GTN, is damaged, or names a class that is not allowed.
        """
        description, state = read_module(checkpoint_path, trust)
        check_sizes(description, state, str(checkpoint_path), trust)
        gtn = cls.from_description(description, trust)
        check_state(gtn.state_dict(), state, str(checkpoint_path))
        gtn.load_state_dict(state)
        return gtn.to(map_location or "cpu")

    @classmethod
    def from_description(cls, description: dict[str, Any], trust: Trusted = ()) -> "GTN":
        """Build a GTN from a description, with initial weights.

        Args:
            description: the return value of `description`.
            trust: see `from_teacher`.

        Raises:
            RecipeError: if the description is damaged, or names a class that is not allowed.
        """
        arguments = {str(name): build(value, trust) for name, value in description.items()}
        try:
            for name, kind in (("inner_loop", InnerLoop), ("evaluation", Evaluation)):
                arguments[name] = kind(**arguments[name])
            return cls(**arguments)
        except (TypeError, AttributeError, KeyError) as error:
            raise RecipeError(f"the file does not describe a GTN ({' '.join(str(error).split())})") from error

    def description(self) -> dict[str, Any]:
        """Return this module's arguments as plain data, except those that only training needs."""
        names = ("teacher", "curriculum", "learners", "inner_optimizer", "task", "seed")
        described = {name: describe(getattr(self, name)) for name in names}
        return described | {"inner_loop": {"steps": self.inner_loop.steps}, "evaluation": asdict(self.evaluation)}

    def save_teacher(
        self, path: str | Path, data: dict[str, Any] | None = None, state: dict[str, Tensor] | None = None
    ) -> None:
        """Write a teacher file; an existing file is replaced only when the new one is complete.

        Args:
            path: path of the file.
            data: description of the data module, so that the file alone suffices for ``gtn test``.
            state: tensors to write instead of the module's present ones.

        Raises:
            RecipeError: if a component does not store its constructor's arguments, or the file cannot be written.
        """
        write_teacher(path, state or self.state_dict(), self.description(), data, self.meta_training())

    def meta_training(self) -> dict[str, float]:
        """Return ``seconds``, ``meta_steps`` and ``processes`` of meta-training so far, including resumed runs."""
        return self._cost.so_far(self._trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state for resumption to a checkpoint."""
        self._resumption.save(checkpoint, self._trainer, self._outer())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume from a checkpoint of this module, see `check_checkpoint`."""
        resuming = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        self.check_checkpoint(checkpoint, self._trainer if resuming else None)
        self._resumption.load(checkpoint, self._outer() if resuming else None, resuming)

    def check_checkpoint(
        self, checkpoint: dict[str, Any], trainer: pl.Trainer | None = None, source: str = "the checkpoint"
    ) -> None:
        """Check that a checkpoint belongs to this module; see `gtn_lightning.meta_training.resumption`."""
        outer = None if trainer is None else self._outer()
        check_checkpoint(checkpoint, self.state_dict(), outer, trainer, source)

    # ------------------------------------------------------------------------------------------------- meta-training

    def setup(self, stage: str) -> None:
        """Check that the trainer can run a GTN, and drop the data of an earlier run."""
        names = [field.name for field in fields(self._parts)]
        if replaced := [name for name in names if getattr(self, name) is not getattr(self._parts, name)]:
            raise RecipeError(f"model.{replaced[0]} was replaced after the GTN was made: make a new GTN with it")
        self._evaluator.reset()
        check_trainer(self.trainer, self.outer_gradient.updates)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one outer optimizer for all meta-parameters: teacher, curriculum, inner hyperparameters."""
        return self._own_outer().configure()

    def _outer(self) -> OuterOptimization | None:
        """Return the outer optimizer and schedule of the arguments, None if a subclass makes its own."""
        return self._own_outer() if type(self).configure_optimizers is GTN.configure_optimizers else None

    def _own_outer(self) -> OuterOptimization:
        return OuterOptimization(meta_learned(self), self.outer_optimizer, self.outer_lr_scheduler, self.outer_groups)

    def on_fit_start(self) -> None:
        """Pass real data to the teacher before callbacks that average weights replace them at a sanity check."""
        if self.trainer.datamodule is not None:  # type: ignore[attr-defined]  # the trainer sets it when it runs
            self._evaluator.prepare(self)

    def on_train_start(self) -> None:
        """Check that data, teacher, learners and task fit together before the first meta-step."""
        # Without a data module, the trainer's loaders are not available before.
        self._evaluator.prepare(self)
        self._resumption.begin(self.trainer, self._outer())
        self.recovery.remember(self.trainer, self)
        if self.inner_loop.cuda_graphs and self.device.type == "cuda":
            self._graphs = self._evaluator.graphs = CudaGraphs(self.device)
            self._ahead = Ahead(self.device)
        self._mode = mode_of(self.inner_loop, self.learners.architectures, self.trainer.max_steps)
        self._cost.begin()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the timer of a meta-step."""
        self._step_began = time.perf_counter()
        self._experience.clear()

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Take one meta-step: sample a learner, teach it, return its meta-loss on the real batch."""
        kept = self._experience if self.outer_gradient.updates > 1 else None
        place, following = (self.global_step, batch_idx), None
        if self._ahead is not None and isinstance(self.outer_gradient, MetaGradient) and kept is None:
            is_last = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
            following = self.global_rank, self.global_step + is_last, batch_idx + 1
        step = MetaStep(
            evaluate=lambda number: meta_step(
                self._parts,
                self.population,
                batch,
                (number, *place),
                self.device,
                kept,
                self._graphs,
                self._ahead,
                following,
                self._mode,
            ),
            parameters=lambda: list(chain.from_iterable(meta_learned(self).values())),
            generator=lambda: keyed_generator(self.seed, "outer gradient", self.global_rank, *place),
            gather=lambda tensor: self.trainer.strategy.all_gather(tensor).view(-1, *tensor.shape),
            rank=self.global_rank,
        )
        loss, inner_loss = self.outer_gradient.loss(step)
        self._meta_loss = loss.detach()
        self.log("train/meta_loss", loss.detach(), prog_bar=True, sync_dist=True)
        self.log("train/inner_loss", inner_loss, sync_dist=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the updates of a meta-step; each calls `training_step`, as the optimizer's closure does."""
        for _ in range(self.outer_gradient.updates):
            super().optimizer_step(*args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skip a meta-step with a non-finite gradient; here it is already averaged over the processes."""
        if not self.recovery.examine(self, self._meta_loss):
            optimizer.zero_grad()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the duration of the meta-step and the number of skipped ones."""
        self.log("time/meta_step", time.perf_counter() - self._step_began)
        self.log("train/skipped", float(self.recovery.skipped))
        for name, count in counts(self.trainer).items():
            self.log(f"train/{name}", float(count), sync_dist=True, reduce_fx="sum")
        self.recovery.act(self.trainer, self)

    def on_exception(self, exception: BaseException) -> None:
        """End as after the last meta-step."""
        self.on_train_end()

    def on_train_end(self) -> None:
        """Stop the timer of meta-training, and free the memory of its graphs."""
        self._cost.end()
        self._graphs = self._evaluator.graphs = self._ahead = None

    # ---------------------------------------------------------------------------------------------------- evaluation

    def on_validation_start(self) -> None:
        """Store the state of meta-training for `Recovery`, before callbacks that average weights replace them."""
        if not self.trainer.sanity_checking and self.trainer.state.fn == TrainerFn.FITTING:
            self.recovery.remember(self.trainer, self)

    def on_validation_epoch_start(self) -> None:
        """Check that all processes have the same teacher, and teach the validation learners."""
        check_agreement(self)
        self._evaluator.begin(self, "val")

    def on_test_epoch_start(self) -> None:
        """Teach the test learners."""
        self._evaluator.begin(self, "test")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the taught learners on a batch of the validation split, which has one loader."""
        self._evaluator.score(batch, "val", batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the taught learners on a batch of the test split, which has one loader."""
        self._evaluator.score(batch, "test", batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the validation learners' scores."""
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the test learners' scores."""
        self._finish_evaluation("test")

    def _finish_evaluation(self, split: str) -> None:
        self.result = self._evaluator.finish(self, split)
        leading = self.task.metrics()[0].name
        for key, value in self.result.logged().items():
            self.log(f"{split}/{key}", value.float(), prog_bar=key == leading)
        self.log(f"{split}/loss", self.result.losses.mean().float())

    def fresh_learner(self, *key: int | str, steps: Sequence[int] = ()) -> list[Taught]:
        """Return a fresh learner after some numbers of inner steps, by default after all.

        Args:
            key: purpose of the learner, which is a function of this and of the seed.
            steps: the numbers of inner steps.
        """
        return self._evaluator.fresh(self, steps or [self.inner_loop.steps], *key)

    # -------------------------------------------------------------------------------------------------- synthetic data

    def synthetic_batch(self, step: int) -> Batch:
        """Return the teacher's batch for an inner step, counted from zero; see `teaching.synthetic_batch`."""
        # Callbacks call this from hooks in which the trainer's precision is not set.
        precision = nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()
        with precision:
            return synthetic_batch(self.teacher, self.curriculum, self.seed, step, self.device)

    def predict_dataloader(self) -> DataLoader[int]:
        """Return a loader of the numbers of the inner steps, one per batch."""
        return DataLoader(range(self.inner_loop.steps), batch_size=1)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        """Pass real data to a teacher that cannot make its batches without."""
        if self.teacher.needs_real_data:
            self._evaluator.prepare(self)

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return ``step``, a scalar, and the teacher's fields for it, each ``[B, ...]``."""
        return {"step": batch[0], **self.synthetic_batch(int(batch))}
