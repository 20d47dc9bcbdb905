"""The LightningModule of a Generative Teaching Network: one training step is one meta-step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from gtn_lightning.agreement import check_agreement, unsuitable
from gtn_lightning.checkpoints import (
    CheckpointError,
    check_callbacks_files,
    check_progress,
    check_state_dict,
    is_number,
    shown,
)
from gtn_lightning.curricula import Curriculum, ShuffledPasses
from gtn_lightning.data import TensorData
from gtn_lightning.data.pairs import batches_of, check_finite, check_pair, has_length, only_loader
from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import MODES, Functional, InnerOptimizer, difference, eager_loss, unroll_population
from gtn_lightning.learners import LearnerDistribution, check_distribution, check_learner
from gtn_lightning.outer import OuterOptimization
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.recovery import Recovery
from gtn_lightning.tasks import Task
from gtn_lightning.teacher_file import TeacherRecipe, check_state, load_weights, read_recipe, read_shapes
from gtn_lightning.teachers import RealData, SyntheticBatch, Teacher, TeacherInput
from gtn_lightning.teaching import Examination, LearningCurve, teach, teach_at_best_rate
from gtn_lightning.trust import Trusted, is_known

REAL_IMAGES = 10_000
"""How many real training images there are at most to the baseline and to a RealData teacher."""

TUNING_IMAGES = 1_000
"""How many validation images decide on the baseline's rate."""

NAMES = {"train": "training", "val": "validation", "test": "test"}
"""What errors call the loaders of the splits."""

WHERE = {"train": "the data", "val": "the validation data", "test": "the test data"}
"""What errors call their data."""


PARTS: dict[str, type] = {
    "teacher": Teacher,
    "curriculum": Curriculum,
    "optimizer": InnerOptimizer,
    "task": Task,
    "inner_steps": int,
}
"""Which kind the parts of a GTN must be of; `check_distribution` looks at the learners, with more advice."""


class GTN(pl.LightningModule):
    """A Generative Teaching Network (Such et al., arXiv 1912.07768).

    Each meta-step samples a fresh learner, trains it for ``inner_steps`` steps on the teacher's data, and returns its
    loss on the real batch that Lightning hands over. Optimization is automatic, so that DDP, gradient clipping,
    accumulation and mixed precision work as for any module.

    Validation and test teach learners never seen before, keyed by the seed alone and shared out over the processes,
    on synthetic data and beside it on as many steps of real data, for which each learner's rate is tuned on
    validation data.

    Logged: ``train/meta_loss``, ``train/inner_loss`` (of the last inner step), ``train/skipped`` (meta-steps without
    a finite gradient so far), ``time/meta_step`` (seconds), and for ``val`` and ``test`` the task's metric, for
    instance ``val/accuracy`` (mean over learners), ``val/accuracy_std``, ``val/accuracy_real``,
    ``val/accuracy_real_std`` and ``val/loss``.

    Args:
        teacher: makes the data.
        curriculum: which teacher input each inner step sees.
        learners: the distribution of the networks that are taught.
        optimizer: the inner optimizer, with what is learned about it.
        task: what is taught.
        inner_steps: number of inner steps T.
        outer_optimizer: makes the outer optimizer from the meta-parameters; default Adam with rate 0.01.
        lr_scheduler: makes the outer rate's schedule, stepped after every meta-step.
        outer_groups: options of the outer optimizer for a part of what is meta-learned, by its name: ``teacher``,
            ``curriculum`` or ``optimizer``, for instance ``{optimizer: {lr: 0.001}}``. A weight decay acts on the
            teacher alone, unless it is given here.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``. ``auto`` measures
            and takes the fastest, so that two runs agree but for rounding; name one where they must agree in every
            bit.
        truncation: differentiate through the last so many inner steps only; None for all of them.
        random_window: with ``truncation``, end the inner loop after a random number of steps (RaT-BPTT, arXiv
            2311.06152).
        population: number of learners taught in a meta-step on the same data, of one architecture unless the learners'
            distribution says otherwise; the meta-loss is their mean, or what the distribution makes of them. Learners
            that differ in something else than parameters and buffers are taught one after the other.
        segment: keep the state of the inner loop after every so many steps only and run the others again in the
            backward pass: for inner loops whose states do not fit into memory. States at which a meta-loss is taken are
            kept as well. None keeps all.
        offload: with `segment`, keep these states in the host's memory.
        checked: refuse learners whose meta-gradient is found to be wrong, because the backward pass computes them again
            otherwise or because their gradient is none. Without, they are taught all the same.
        recovery: what is done about meta-gradients that are not finite; None for `Recovery` with its defaults.
        eval_learners: number of learners K taught at validation and test.
        eval_steps: numbers of inner steps at which they are scored; T is always among them. None for about five up to
            T.
        real_rates: the learning rates from which the real-data baseline takes the best.
        seed: seed of every random choice.

    Raises:
        RecipeError: if the parts do not fit together.
    """

    def __init__(
        self,
        teacher: Teacher,
        curriculum: Curriculum,
        learners: LearnerDistribution,
        optimizer: InnerOptimizer,
        task: Task,
        inner_steps: int,
        outer_optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        outer_groups: dict[str, dict[str, Any]] | None = None,
        mode: str = "auto",
        truncation: int | None = None,
        random_window: bool = False,
        population: int = 1,
        segment: int | None = None,
        offload: bool = False,
        checked: bool = True,
        recovery: Recovery | None = None,
        eval_learners: int = 10,
        eval_steps: list[int] | None = None,
        real_rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.curriculum = curriculum
        self.learners = learners
        self.optimizer = optimizer
        self.task = task
        self.inner_steps = inner_steps
        self.outer_optimizer = outer_optimizer
        self.lr_scheduler = lr_scheduler
        self.outer_groups = outer_groups
        self.mode = mode
        self.truncation = truncation
        self.random_window = random_window
        self.population = population
        self.segment = segment
        self.offload = offload
        self.checked = checked
        self.recovery = recovery or Recovery()
        self.eval_learners = eval_learners
        self.eval_steps = eval_steps
        self.real_rates = list(real_rates)
        self.seed = seed
        self.learning_curve: LearningCurve | None = None
        """Scores of the last validation or test, on every process."""
        self._check_parts()
        self._baseline_curves: dict[str, Tensor] = {}
        self._examinations: dict[str, Examination] = {}
        self._real: RealData | None = None
        self._tuning_batch: Sequence[Any] | None = None
        self._prepared = False
        self._learners_fit = False
        self._splits_fit: set[str] = set()
        self._meta_loss: Tensor | None = None
        self._outer_then: dict[str, Any] | None = None
        self._resumed_at: int | None = None
        self._started = 0.0
        self._spent_before = 0.0
        self._training_began: float | None = None

    @classmethod
    def from_teacher(cls, path: str | Path, trust: Trusted = ()) -> "GTN":
        """Load a teacher file, the small self-describing one that ``gtn fit`` writes beside its checkpoints.

        Args:
            path: the teacher file.
            trust: classes that the file may name beside this package's, or names of them or of their modules. What
                this user's own runs have written needs none.

        Raises:
            RecipeError: if the file is no teacher file, is damaged, or names a class that is not allowed or cannot be
                imported.
        """
        recipe = read_recipe(path, trust)
        cls.check_sizes(recipe, path)
        gtn = cls.from_description(recipe.model, recipe.trust)
        load_weights(gtn, path)
        return gtn

    @classmethod
    def from_description(cls, description: dict[str, Any], trust: Trusted = ()) -> "GTN":
        """Return a GTN that is not meta-trained yet, from what ``description`` says of one.

        Args:
            description: what `description` returned.
            trust: see `from_teacher`.

        Raises:
            RecipeError: if it is damaged, or names a class that is not allowed.
        """
        arguments = {str(name): build(value, trust) for name, value in description.items()}
        try:
            return cls(**arguments)
        except (TypeError, AttributeError) as error:
            raise RecipeError(f"the file does not describe a GTN ({' '.join(str(error).split())})") from error

    @classmethod
    def check_sizes(cls, recipe: TeacherRecipe, path: str | Path) -> None:
        """See that a teacher file's recipe makes no larger tensors than the file holds, before any memory is taken.

        Raises:
            RecipeError: if it is another architecture's.
        """
        held = read_shapes(path)
        for part in ("teacher", "curriculum", "optimizer"):
            with torch.device("meta"):
                try:
                    state = build(recipe.model.get(part), recipe.trust).state_dict()
                except (RecipeError, AttributeError, TypeError) as error:
                    if is_known(recipe.model.get(part)):
                        raise RecipeError(f"{path}: {part}: {' '.join(str(error).split())}") from error
                    continue  # a class of the user's own that looks at values: it is built as it is
            for name, tensor in state.items():
                # What is in the one only is said by `load_weights`, which knows of earlier formats.
                shape = held[f"{part}.{name}"].shape if f"{part}.{name}" in held else None
                if shape is not None and shape != tensor.shape:
                    raise RecipeError(
                        f"{path} belongs to another architecture: {part}.{name} is {list(shape)} in the file and "
                        f"{list(tensor.shape)} in the model; use the recipe that it was made with"
                    )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what was skipped beside the weights."""
        checkpoint["recovery"] = self.recovery.state_dict()
        checkpoint["meta_training"] = self.meta_training()
        if self._has_own_outer():
            checkpoint["outer"] = self._outer().plan()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what was skipped and spent from a checkpoint that belongs to this module, see `check_checkpoint`."""
        going_on = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        self.check_checkpoint(checkpoint, self._trainer if going_on else None)
        if going_on:
            check_callbacks_files(checkpoint, self.trainer)
            self._resumed_at = checkpoint["global_step"]
            if "outer" in checkpoint and self._has_own_outer():
                self._outer_then = checkpoint["outer"]
                if self._outer_then["schedule"] != self._outer().plan()["schedule"]:
                    checkpoint["lr_schedulers"] = []  # of another schedule, see _follow_recipe
        if "recovery" in checkpoint:
            self.recovery.load_state_dict(checkpoint["recovery"])
        if "meta_training" in checkpoint:
            self._spent_before = float(checkpoint["meta_training"]["seconds"])

    def check_checkpoint(
        self, checkpoint: dict[str, Any], trainer: pl.Trainer | None = None, source: str = "the checkpoint"
    ) -> None:
        """See that a checkpoint belongs to this module, and that nothing odd is in it.

        Args:
            checkpoint: what the file holds.
            trainer: the trainer of the run that is to go on from it; None if only the weights are taken.
            source: what errors about another architecture call it.

        Raises:
            CheckpointError: if it lacks something, or holds what no run has put there.
            RecipeError: if it is another architecture's or another outer optimizer's, or the schedule is over by then.
        """
        check_state_dict(checkpoint)
        check_state(self, checkpoint["state_dict"], source)
        Recovery().load_state_dict(checkpoint.get("recovery", Recovery().state_dict()))
        spent = checkpoint.get("meta_training", {"seconds": 0.0})
        seconds: Any = spent.get("seconds") if isinstance(spent, dict) else None
        if not is_number(seconds) or not 0 <= float(seconds) < float("inf"):
            raise CheckpointError(f"meta_training: expected seconds of 0 or more, got {shown(seconds)}")
        if trainer is None:
            return
        check_progress(checkpoint, trainer)
        if not self._has_own_outer():
            return
        if "outer" not in checkpoint:
            raise RecipeError(
                "the checkpoint does not say what its outer optimizer was, as those of earlier versions: begin anew "
                "from the run's teacher.safetensors with --teacher in place of --ckpt_path"
            )
        outer = self._outer()
        outer.check(checkpoint["outer"], checkpoint["global_step"])
        outer.check_state(checkpoint)

    def meta_training(self) -> dict[str, float]:
        """Return what meta-training cost so far.

        These are ``seconds`` of wall clock from the first meta-step on, validations and all runs that were resumed
        included; ``meta_steps``; and ``processes`` at work.
        """
        running = 0.0 if self._training_began is None else time.perf_counter() - self._training_began
        trainer = self._trainer
        return {
            "seconds": self._spent_before + running,
            "meta_steps": 0 if trainer is None else trainer.global_step,
            "processes": 1 if trainer is None else trainer.world_size,
        }

    def description(self) -> dict[str, Any]:
        """Return this module's arguments as plain data, without those that only training needs."""
        names = (
            *("teacher", "curriculum", "learners", "optimizer", "task", "inner_steps"),
            *("eval_learners", "eval_steps", "real_rates", "seed"),
        )
        return {name: describe(getattr(self, name)) for name in names}

    # ------------------------------------------------------------------------------------------------- meta-training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Put one outer optimizer over everything that is meta-learned: teacher, curriculum, inner hyperparameters."""
        return self._outer().configure()

    def _has_own_outer(self) -> bool:
        """Return whether the outer optimizer is what the arguments say, and not what a subclass makes."""
        return type(self).configure_optimizers is GTN.configure_optimizers

    def _outer(self) -> OuterOptimization:
        parts: dict[str, list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(name.partition(".")[0], []).append(parameter)
        if not parts:
            raise RecipeError(
                "there is nothing to meta-learn: the teacher has no parameters and the inner optimizer learns nothing; "
                "name hyperparameters in model.optimizer.learned or learned_per_step"
            )
        optimizer = self.outer_optimizer or partial(torch.optim.Adam, lr=0.01)
        return OuterOptimization(parts, optimizer, self.lr_scheduler, self.outer_groups)

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Take one meta-step: sample a learner, teach it, return its meta-loss on the real batch."""
        key = ("train", self.global_rank, self.global_step, batch_idx)
        generator = keyed_generator(self.seed, *key)
        with keyed_rng(self.seed, *key, device=self.device):
            # Never attributes of the module: DDP would wait for gradients of their parameters. Made on the CPU, where
            # the generator is, so that a seed means the same learners on every device.
            made = self.learners.population(generator, self.population)
            learners = [Functional(learner.to(self.device)) for learner in made]
            window = self._window(batch_idx)
            meta_steps = self.task.meta_steps(window[1])
            inner_losses = [self.task.inner_loss(learner) for learner in learners]
            taught = unroll_population(
                inner_losses[0] if self.learners.one_architecture and are_one_function(made) else inner_losses,
                [learner.init() for learner in learners],
                self._batches(self.curriculum.requests(generator, self.device)),
                self.optimizer,
                mode=self.mode,
                window=window,
                snapshots=meta_steps,
                segment=self.segment,
                offload=self.offload,
                checked=self.checked,
            )
            losses = [
                [
                    eager_loss(self.task.meta_loss(learner), *unrolled.snapshots[step], batch, self.mode)
                    for step in meta_steps
                    if step > window[0]
                ]
                for learner, unrolled in zip(learners, taught, strict=True)
            ]
            loss = self.learners.meta_loss(made, torch.stack([torch.stack(row).mean() for row in losses]))
        self._meta_loss = loss.detach()
        inner_loss = torch.stack([unrolled.losses[-1].detach() for unrolled in taught]).mean()
        self.log("train/meta_loss", loss.detach(), prog_bar=True, sync_dist=True)
        self.log("train/inner_loss", inner_loss, sync_dist=True)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the clock of a meta-step."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log how long the meta-step took and how many were skipped."""
        self.log("time/meta_step", time.perf_counter() - self._started)
        self.log("train/skipped", float(self.recovery.skipped))
        self.recovery.act(self.trainer, self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skip a meta-step whose gradient, averaged over the processes by now, is not finite."""
        if not self.recovery.examine(self, self._meta_loss):
            optimizer.zero_grad()

    def _window(self, batch_idx: int) -> tuple[int, int]:
        """Return the inner steps to differentiate through; the same on all processes."""
        if self.truncation is None:
            return 0, self.inner_steps
        last = self.inner_steps
        if self.random_window:
            generator = keyed_generator(self.seed, "window", self.global_step, batch_idx)
            last = int(torch.randint(self.truncation, self.inner_steps + 1, (), generator=generator))
        return last - self.truncation, last

    def _batches(self, requests: list[TeacherInput]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.teacher.batches(requests):
            yield batch.inputs, batch.targets

    # ---------------------------------------------------------------------------------------------------- evaluation

    def setup(self, stage: str) -> None:
        """Ask for real data again, and teach with it again: this run may have other data than the last."""
        self._prepared = False
        self._learners_fit = False
        self._splits_fit = set()
        self._baseline_curves = {}
        if reason := unsuitable(self.trainer):
            raise RecipeError(
                f"trainer.strategy: {reason}, but every process teaches a learner of its own with the whole teacher, "
                "which is small: use ddp"
            )
        clip = self.trainer.gradient_clip_val
        if clip is not None and clip < 0:  # Lightning takes it for none at all
            raise RecipeError(f"trainer.gradient_clip_val must be at least 0, or null for no clipping; got {clip}")

    def on_train_start(self) -> None:
        """Check that data, teacher, learners and task fit together before the first meta-step."""
        resumed_at, self._resumed_at = self._resumed_at, None
        if resumed_at not in (None, self.global_step):
            raise CheckpointError(f"global_step is {resumed_at}, but the loops count {self.global_step} meta-steps")
        # No earlier: loaders that are given to the trainer without a data module are not there before.
        self._prepare()
        self._follow_recipe()
        self.recovery.remember(self.trainer, self)
        self._training_began = time.perf_counter()

    def _follow_recipe(self) -> None:
        """Let the outer optimizer and schedule of a resumed run go on as the recipe says, and say what is new."""
        then, self._outer_then = self._outer_then, None
        if then is None:
            return
        (optimizer,) = self.trainer.optimizers
        schedule = next((config.scheduler for config in self.trainer.lr_scheduler_configs), None)
        reduction = self.recovery.reduction
        changed = self._outer().follow(optimizer, schedule, then, self.global_step, reduction)
        if changed:
            reduced = "" if reduction == 1 else f", times the {reduction:g} that Recovery has reduced the rates to"
            rank_zero_info(
                f"the outer optimizer goes on with {', '.join(changed)}{reduced}, from meta-step {self.global_step} on"
            )

    def on_train_end(self) -> None:
        """Stop counting what meta-training costs."""
        self._spent_before = self.meta_training()["seconds"]
        self._training_began = None

    def on_validation_start(self) -> None:
        """Remember the state of meta-training; callbacks that average weights put theirs in place after this."""
        if not self.trainer.sanity_checking and self.trainer.state.fn == TrainerFn.FITTING:
            self.recovery.remember(self.trainer, self)

    def on_validation_epoch_start(self) -> None:
        """See that all processes have the same teacher, and teach the validation learners."""
        check_agreement(self)
        self._begin_examination("val")

    def on_test_epoch_start(self) -> None:
        """Teach the test learners."""
        self._begin_examination("test")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the taught learners on a batch of the validation split, of which there is one loader."""
        self._score(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the taught learners on a batch of the test split, of which there is one loader."""
        self._score(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the validation learners' scores."""
        self._end_examination("val")

    def on_test_epoch_end(self) -> None:
        """Log the test learners' scores."""
        self._end_examination("test")

    def scored_steps(self) -> list[int]:
        """Return the numbers of inner steps at which learners are scored, ascending; the last is T."""
        if self.eval_steps is None:
            return sorted({-(-self.inner_steps // 2**power) for power in range(5)})
        return sorted({*self.eval_steps, self.inner_steps})

    def _begin_examination(self, split: str) -> None:
        self._prepare()
        self._check_split(split)
        steps = self.scored_steps()
        self._examinations = {"synthetic": Examination(self.task, self.eval_learners, steps, self.device)}
        # The baseline does not change during a fit: the learners and the real data are keyed by the seed alone.
        if self._real is not None and split not in self._baseline_curves and not self.trainer.sanity_checking:
            self._examinations["real"] = Examination(self.task, self.eval_learners, steps, self.device)
        for number in range(self.global_rank, self.eval_learners, self.trainer.world_size):
            self._teach_examinee(split, number, steps)

    def _teach_examinee(self, split: str, number: int, steps: list[int]) -> None:
        key = (split, number)
        # In this hook the trainer's precision is not set yet, as it is in training_step.
        precision = self.trainer.precision_plugin.forward_context()
        with torch.inference_mode(False), precision, keyed_rng(self.seed, *key, device=self.device):
            generator = keyed_generator(self.seed, *key)
            learner = self.learners.sample(generator).to(self.device)
            with torch.no_grad():
                requests = self.curriculum.requests(generator, self.device)
            taught = teach(learner, self.task, self.teacher, requests, self.optimizer, steps, self.mode)
            self._examinations["synthetic"].add(number, learner, taught)
            if "real" in self._examinations:
                assert self._real is not None
                assert self._tuning_batch is not None
                passes = ShuffledPasses(
                    self.inner_steps, self.curriculum.batch_size, self.curriculum.classes, self._real.size
                )
                _, taught = teach_at_best_rate(
                    learner,
                    self.task,
                    self._real,
                    passes.requests(generator, self.device),
                    self.optimizer,
                    steps,
                    self.real_rates,
                    self._tuning_batch,
                    self.mode,
                )
                self._examinations["real"].add(number, learner, taught)

    def _score(self, batch: Any, split: str) -> None:
        batch = self._scorable(batch, WHERE[split])
        for examination in self._examinations.values():
            examination.score(batch)

    def _end_examination(self, split: str) -> None:
        # Every process has a share of the rows and zeros in the others.
        tables = {
            source: self.trainer.strategy.reduce(examination.table(), reduce_op="sum")
            for source, examination in self._examinations.items()
        }
        self._examinations = {}
        if "real" in tables:
            self._baseline_curves[split] = tables["real"][:, :-1].cpu()
        synthetic = tables["synthetic"]
        real = self._baseline_curves.get(split)
        self.learning_curve = LearningCurve(self.scored_steps(), synthetic[:, :-1].cpu(), real)
        name = f"{split}/{self.task.metric_name}"
        logged = {name: synthetic[:, -2].mean(), f"{name}_std": synthetic[:, -2].std(correction=0)}
        if real is not None:
            logged |= {f"{name}_real": real[:, -1].mean(), f"{name}_real_std": real[:, -1].std(correction=0)}
        logged[f"{split}/loss"] = synthetic[:, -1].mean()
        for key, value in logged.items():
            self.log(key, value.float(), prog_bar=key == name)

    # -------------------------------------------------------------------------------------------------- synthetic data

    def synthetic_batch(self, step: int) -> SyntheticBatch:
        """Return the batch that the teacher makes for an inner step (counted from zero), without gradient.

        With a shuffled curriculum, or none, it is one keyed draw of many possible ones.
        """
        # Callbacks ask from where the trainer's precision is not set.
        precision = nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()
        with torch.no_grad(), precision:
            requests = self.curriculum.requests(keyed_generator(self.seed, "predict"), self.device)
            return next(iter(self.teacher.batches([requests[step]])))

    def predict_dataloader(self) -> DataLoader[int]:
        """Return the numbers of the inner steps, one at a time."""
        return DataLoader(range(self.inner_steps), batch_size=1)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        """Give a real-data teacher its images."""
        if isinstance(self.teacher, RealData):
            self._prepare()

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Make the synthetic batch of one inner step.

        Returns:
            ``step`` (scalar), ``inputs`` ``[B, C, H, W]``, ``targets`` and ``labels``.
        """
        return {"step": batch[0], **self.synthetic_batch(int(batch))._asdict()}

    # ---------------------------------------------------------------------------------------------------- preparation

    def _prepare(self) -> None:
        """Fetch real data for the baseline and check every part against it, once."""
        if self._prepared:
            return
        with torch.inference_mode(False), self.trainer.precision_plugin.forward_context():
            images = self._real_tensors("train", REAL_IMAGES)
            tuning = self._real_tensors("val", TUNING_IMAGES)
            # A test on a lone DataLoader goes on with the real data that was trained on.
            if images is not None and tuning is not None:
                self._tuning_batch = tuning
                self._real = RealData(self.teacher.image_shape, self.teacher.classes)
                self._real.attach(*images)
            if images is not None:
                self.teacher.attach(*images)
            if isinstance(self.teacher, RealData):
                if images is None:
                    raise RecipeError("the RealData teacher needs a data module with a train_dataloader")
                if (self.curriculum.pool or 0) > self.teacher.size:
                    raise RecipeError(
                        f"model.curriculum asks for {self.curriculum.pool} different images but the RealData teacher "
                        f"has {self.teacher.size} real ones: ask for no more than that"
                    )
        # Without a data module the training data comes later than the sanity check.
        self._prepared = images is not None

    def _real_tensors(self, split: str, count: int) -> tuple[Tensor, Tensor] | None:
        """Return ``count`` real images and labels of a split as the learners see them, or None without a loader.

        Raises:
            RecipeError: if they, and the learners beside them, do not fit.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # the trainer sets it when it runs
        if data is None:
            loader = self.trainer.train_dataloader if split == "train" else self.trainer.val_dataloaders
        else:
            if self.trainer.state.fn != TrainerFn.FITTING:
                data.setup("fit")  # a second time, a data module that splits at random would split otherwise
            if isinstance(data, TensorData):
                # Straight from memory: the same images on every process and after every restart.
                return self._fitting(*self._as_batch(*data.some(split, count, self.seed)), split)
            name = f"{split}_dataloader"
            loader = getattr(data, name)() if is_overridden(name, data) else None
        loader = only_loader(loader, NAMES[split], structured=split == "train")
        if loader is None:
            return None
        images, labels, found = [], [], 0
        for batch in batches_of(loader, NAMES[split]):
            inputs, targets = check_pair(self._handed_over(batch), self.teacher.image_shape, WHERE[split])
            images.append(inputs)
            labels.append(targets)
            found += len(targets)
            if found >= count:
                break
        # Every process draws its own training data; the baseline must be the same on all.
        tensors: tuple[Tensor, Tensor] = self.trainer.strategy.broadcast(
            (torch.cat(images)[:count], torch.cat(labels)[:count])
        )
        return self._fitting(*self._as_batch(*tensors), split)

    def _handed_over(self, batch: Any) -> Any:
        """Return a loader's batch as Lightning hands it to a step: in the trainer's precision, through the hooks."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]

        def hook(name: str) -> Any:
            return getattr(data if data is not None and is_overridden(name, data) else self, name)

        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = hook("on_before_batch_transfer")(batch, 0)
        batch = hook("transfer_batch_to_device")(batch, self.device, 0)
        return hook("on_after_batch_transfer")(batch, 0)

    def _as_batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = self.trainer.precision_plugin.convert_input(images)
        return images.to(self.device), labels.to(self.device)

    def _check_split(self, split: str) -> None:
        """Check the loader of a split, and its first batch, before any learner is taught for it."""
        loaders = self.trainer.test_dataloaders if split == "test" else self.trainer.val_dataloaders
        loader = only_loader(loaders, NAMES[split])
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise RecipeError(
                f"the {split} DataLoader shows each process a part of its images, but learners are shared out and not "
                "images: pass use_distributed_sampler=False to the Trainer, and give the training DataLoader a "
                "DistributedSampler of its own"
            )
        if split in self._splits_fit:
            return
        with (
            torch.inference_mode(False),
            self.trainer.precision_plugin.forward_context(),
            isolate_rng(),  # what is drawn for a batch is drawn again
        ):
            # A stream might not begin anew: its batches are looked at when they come.
            if has_length(loader):
                batch = self._handed_over(next(batches_of(loader, NAMES[split])))
                self._fitting(*check_pair(batch, self.teacher.image_shape, WHERE[split]), split)
            elif not self._learners_fit:
                made = self.synthetic_batch(0)
                self._check_learners((made.inputs, made.labels))

    def _scorable(self, batch: Any, where: str) -> tuple[Tensor, Tensor]:
        """Return a batch of real data, once it is known that learners can be scored on it."""
        images, labels = check_pair(batch, self.teacher.image_shape, where)
        check_finite(images, where)
        self.task.check_batch((images, labels), where)
        return images, labels

    def _fitting(self, images: Tensor, labels: Tensor, split: str) -> tuple[Tensor, Tensor]:
        """Return real data, once it is known that it and the learners fit together."""
        real = self._scorable((images, labels), WHERE[split])
        self._splits_fit.add(split)
        self._check_learners(real)
        return real

    def _check_learners(self, real: tuple[Tensor, Tensor]) -> None:
        if self._learners_fit:
            return
        with torch.random.fork_rng(devices=[]):
            for family in self.learners.families().values():
                learner = family.sample(keyed_generator(self.seed, "check")).to(self.device)
                check_learner(learner)
                self.task.check(learner, real)
        self._learners_fit = True

    def _check_parts(self) -> None:
        for name, kind in PARTS.items():
            if not isinstance(part := getattr(self, name), kind):
                raise RecipeError(f"model.{name}: expected a {kind.__name__}, got a {type(part).__name__}")
        check_distribution(self.learners)
        if self.inner_steps < 1:
            raise RecipeError(f"model.inner_steps must be at least 1; got {self.inner_steps}")
        if self.inner_steps != self.curriculum.steps:
            raise RecipeError(
                f"model.inner_steps is {self.inner_steps} but model.curriculum.steps is {self.curriculum.steps}: "
                "make them agree"
            )
        if self.optimizer.learned_per_step and self.optimizer.steps != self.inner_steps:
            raise RecipeError(
                f"model.inner_steps is {self.inner_steps} but model.optimizer.steps is {self.optimizer.steps}: "
                "make them agree"
            )
        if self.teacher.noise != self.curriculum.noise:
            raise RecipeError(
                f"model.teacher takes noise of size {self.teacher.noise} but model.curriculum gives "
                f"{self.curriculum.noise}: make their noise agree"
            )
        if self.teacher.classes != self.curriculum.classes:
            raise RecipeError(
                f"model.teacher has {self.teacher.classes} classes but model.curriculum "
                f"{self.curriculum.classes}: make them agree"
            )
        # Tasks to come may know no classes.
        classes = getattr(self.task, "classes", self.teacher.classes)
        if classes != self.teacher.classes:
            raise RecipeError(
                f"model.teacher has {self.teacher.classes} classes but model.task {classes}: make them agree"
            )
        if self.teacher.pool is not None and self.teacher.pool != self.curriculum.pool:
            asked = "an unbounded number" if self.curriculum.pool is None else str(self.curriculum.pool)
            raise RecipeError(
                f"model.teacher holds {self.teacher.pool} images but model.curriculum asks for {asked}: set the "
                "teacher's images to steps times batch_size, and use a curriculum with a pool"
            )
        if self.mode not in MODES:
            raise RecipeError(f"model.mode {self.mode!r} is unknown: use one of {', '.join(sorted(MODES))}")
        if self.truncation is not None and not 1 <= self.truncation <= self.inner_steps:
            raise RecipeError(
                f"model.truncation must lie between 1 and inner_steps {self.inner_steps}; got {self.truncation}"
            )
        if self.random_window and self.truncation is None:
            raise RecipeError("model.random_window needs model.truncation, the length of the window")
        if self.population < 1:
            raise RecipeError(f"model.population must be at least 1; got {self.population}")
        if self.segment is not None and self.segment < 1:
            raise RecipeError(f"model.segment must be at least 1 inner step; got {self.segment}")
        if self.offload and self.segment is None:
            raise RecipeError("model.offload needs model.segment, the number of inner steps between kept states")
        if self.eval_learners < 1:
            raise RecipeError(f"model.eval_learners must be at least 1; got {self.eval_learners}")
        outside = [step for step in self.eval_steps or () if not 0 <= step <= self.inner_steps]
        if outside:
            raise RecipeError(
                f"model.eval_steps must lie between 0 and inner_steps {self.inner_steps}; got {outside[0]}"
            )
        if not self.real_rates or min(self.real_rates) <= 0:
            raise RecipeError(f"model.real_rates must be positive learning rates, at least one; got {self.real_rates}")
        if self.seed < 0:
            raise RecipeError(f"model.seed must be at least 0; got {self.seed}")


def are_one_function(learners: Sequence[nn.Module]) -> bool:
    """Return whether learners differ in parameters and buffers alone, so that one loss holds for all."""
    return all(difference(learners[0], learner) is None for learner in learners[1:])
