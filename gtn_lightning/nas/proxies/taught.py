"""Proxies that teach a fresh network for a few steps and look at what it has learned."""

import hashlib
import json
import math
import time
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.data import TensorData
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import REAL_SAMPLES
from gtn_lightning.inner_loop import Adam, Functional, InnerOptimizer, Snapshot
from gtn_lightning.module import GTN
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score
from gtn_lightning.nas.spaces import ATTEMPTS, SearchSpace
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.tasks import Classification, Task
from gtn_lightning.teacher_file import check_sizes, read_meta_training, read_recipe, read_shapes
from gtn_lightning.teachers import RealData, Teacher, TeacherInput
from gtn_lightning.teaching import lessons

MEASURES = ("accuracy", "loss", "area")
"""How a learning curve is reduced to one score: the accuracy or the loss after the last step, or the mean of the
accuracies at several steps, the area under the curve."""

TUNE = ("architecture", "family")
"""What the best of several rates is chosen for."""

FAMILY_SAMPLE = 3
"""Number of family members on which the family's rate is tuned."""

POINTS = 8
"""Number of steps at which a learner is scored for its area, and for a pruner that may end it early."""


class Plan(NamedTuple):
    """Everything that a course is made of, but for the learner."""

    task: Task
    teacher: Teacher
    requests: Sequence[TeacherInput]
    optimizer: InnerOptimizer


class Point(NamedTuple):
    """A learner at some step of its course."""

    step: int
    accuracy: float
    """On validation images, between 0 and 1."""
    loss: float
    """On the same images."""
    cost: Cost
    """From the start of the course until here."""
    look: Cost
    """The part of it that this look at the validation images took."""


class TaughtProxy(Proxy):
    """The base of proxies that teach.

    Args:
        steps: number of inner steps.
        measure: one of `MEASURES`.
        rates: inner learning rates that are all tried, the best of which counts; None for the optimizer's own, whether
            learned or given. Every rate costs a course.
        tune: one of `TUNE`: the rates are tried for each ``architecture``, or once for each ``family`` of the space, on
            `FAMILY_SAMPLE` members of it, whose best mean decides.
        learners: number of fresh networks whose mean is the score.
        images: number of validation images that a network is scored on.

    Raises:
        RecipeError: a value is out of range.
    """

    def __init__(
        self,
        steps: int,
        measure: str = "accuracy",
        rates: Sequence[float] | None = None,
        learners: int = 1,
        images: int = 2000,
        tune: str = "architecture",
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        if measure not in MEASURES:
            raise RecipeError(f"{kind}: measure {measure!r} is unknown; choose one of {', '.join(MEASURES)}")
        for key, value in (("steps", steps), ("learners", learners), ("images", images)):
            if value < 1:
                raise RecipeError(f"{kind}: {key} {value} given, expected 1 or more")
        if rates is not None and (not rates or min(rates) <= 0):
            raise RecipeError(f"{kind}: rates {list(rates)} given, expected positive numbers, at least one")
        self.steps = steps
        self.measure = measure
        self.rates = None if rates is None else list(rates)
        if tune not in TUNE:
            raise RecipeError(f"{kind}: tune {tune!r} is unknown; choose one of {', '.join(TUNE)}")
        if tune == "family" and rates is None:
            raise RecipeError(f"{kind}: tune 'family' chooses among rates, but there are none: give rates")
        self.learners = learners
        self.images = images
        self.tune = tune
        self._family_rates: dict[str, float] = {}
        self._tuning_cost = Cost()

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Take the validation images; see the base class."""
        super().attach(space, data, device)
        self._family_rates = {}
        self._tuning_cost = Cost()
        images, labels = data.splits.val
        self._images = data.normalise(images[: self.images].to(self.device))
        self._labels = labels[: self.images].to(self.device)

    @abstractmethod
    def plan(self, generator: torch.Generator) -> Plan:
        """Return what a course of `steps` inner steps is made of; what is random comes from the generator."""

    def evaluate(self, architecture: str, seed: int = 0, report: Report | None = None) -> Score:
        """Teach fresh networks of an architecture and score them; see the base class.

        What is reported are the values so far of the first course.
        """
        looked_at = self._points() if self.measure == "area" or report is not None else [self.steps]
        cost = Cost()
        best = -math.inf
        for rate in self.rates_for(architecture):
            values = []
            for number in range(self.learners):
                course: list[Point] = []
                for point in self.course(architecture, seed * self.learners + number, looked_at, rate):
                    course.append(point)
                    if report is not None and cost == Cost() and report(point.step, self.value(course)):
                        return Score(self.value(course), course[-1].cost)
                values.append(self.value(course))
                cost += course[-1].cost
            best = max(best, sum(values) / len(values))
        return Score(best, cost)

    def rates_for(self, architecture: str) -> Sequence[float | None]:
        """Return the inner rates of which the best counts for an architecture; None for the optimizer's own.

        The first of a family pays for finding that family's, see `overhead`.
        """
        if self.rates is None or self.tune == "architecture":
            return [None] if self.rates is None else self.rates
        family = self.space.family(architecture)
        if family not in self._family_rates:
            generator = keyed_generator(0, "tuned", family)
            drawn = (self.space.sample(generator) for _ in range(ATTEMPTS))
            members = list(dict.fromkeys(name for name in drawn if self.space.family(name) == family))[:FAMILY_SAMPLE]
            if not members:  # so rare that every member is tuned by itself
                return self.rates
            self._family_rates[family] = max(self.rates, key=lambda rate: self._mean_value(members, rate))
        return [self._family_rates[family]]

    def overhead(self) -> Cost:
        """Return what tuning for families has cost so far."""
        return self._tuning_cost

    def _mean_value(self, architectures: Sequence[str], rate: float) -> float:
        looked_at = self._points() if self.measure == "area" else [self.steps]
        courses = [list(self.course(architecture, 0, looked_at, rate)) for architecture in architectures]
        self._tuning_cost += sum((course[-1].cost for course in courses), Cost())
        return sum(self.value(course) for course in courses) / len(courses)

    def value(self, course: Sequence[Point]) -> float:
        """Return the value of what is known of a course so far, -inf for one that diverged."""
        value = {
            "accuracy": course[-1].accuracy,
            "loss": -course[-1].loss,
            "area": sum(point.accuracy for point in course) / len(course),
        }[self.measure]
        return value if math.isfinite(value) else -math.inf

    def course(
        self, architecture: str, seed: int, points: Collection[int], rate: float | None = None
    ) -> Iterator[Point]:
        """Teach one network, and look at it after these numbers of steps.

        Args:
            architecture: a member of the search space.
            seed: of the network's initial parameters and of what is random about the data, which is the same for all
                architectures.
            points: numbers of inner steps, at least 1; the course ends with the last.
            rate: the inner learning rate, if not the optimizer's own.
        """
        began = time.perf_counter()
        with keyed_rng(seed, self.name, architecture, device=self.device), torch.inference_mode(False):
            network = self.space.build(architecture).to(self.device)
            # The same data for all architectures: what a lucky draw is worth is worth to all of them.
            plan = self.plan(keyed_generator(seed, self.name))
        optimizer = plan.optimizer if rate is None else plan.optimizer.constant(lr=rate)
        forward = self.flops(architecture, network)
        trained = scored = 0
        # Mode remat: the gradient itself is the same in all modes, and this one compiles nothing.
        for lesson in lessons(network, plan.task, plan.teacher, plan.requests, optimizer, "remat"):
            trained += len(plan.requests[lesson.step - 1].index)
            if lesson.step not in points:
                continue
            looked = time.perf_counter()
            accuracy, loss = self._look(network, plan.task, lesson.learner)
            now, images = time.perf_counter(), len(self._labels)
            scored += images
            cost = Cost(now - began, lesson.step, trained + scored, forward * (3.0 * trained + scored))
            look = Cost(now - looked, images=images, flops=float(forward * images))
            yield Point(lesson.step, accuracy, loss, cost, look)
            if lesson.step == max(points):
                return

    def _points(self) -> list[int]:
        return sorted({max(1, round(self.steps * (number + 1) / POINTS)) for number in range(POINTS)})

    def _look(self, network: nn.Module, task: Task, learner: Snapshot) -> tuple[float, float]:
        functional, metric, losses = Functional(network), task.metrics()[0].make().to(self.device), 0.0
        with torch.no_grad():
            for batch in zip(self._images.split(500), self._labels.split(500), strict=True):
                loss = task.score(functional, learner.params, learner.buffers, batch, [metric])
                losses += float(loss) * len(batch[1])
        return float(metric.compute()), losses / len(self._labels)


class LiveGTNProxy(TaughtProxy):
    """The synthetic data of a GTN at hand, for instance of one in meta-training.

    Args:
        gtn: the module.
        steps: number of inner steps; None for as many as it is meta-trained with.
        measure, rates, learners, images, tune: see `TaughtProxy`; by default with the learned rates.

    Raises:
        RecipeError: a value is out of range.
    """

    name = "GTN"

    def __init__(
        self,
        gtn: GTN,
        steps: int | None = None,
        measure: str = "accuracy",
        rates: Sequence[float] | None = None,
        learners: int = 1,
        images: int = 2000,
        tune: str = "architecture",
    ) -> None:
        if steps is not None and steps > gtn.inner_loop.steps:
            raise RecipeError(
                f"{type(self).__name__}: steps {steps} given, but the teacher is meta-trained for "
                f"{gtn.inner_loop.steps}: ask for no more"
            )
        super().__init__(steps or gtn.inner_loop.steps, measure, rates, learners, images, tune)
        self.gtn = gtn

    def plan(self, generator: torch.Generator) -> Plan:
        """Return the curriculum that was meta-learned; see the base class."""
        with torch.no_grad():
            requests = self.gtn.curriculum.requests(generator, self.device)
        return Plan(self.gtn.task, self.gtn.teacher, requests[: self.steps], self.gtn.inner_optimizer)


class GTNProxy(LiveGTNProxy):
    """The synthetic data of a finished GTN.

    Args:
        teacher: its teacher file.
        steps: number of inner steps; None for as many as it was meta-trained with.
        untrained: the same teacher as it was before meta-training, to see what that is good for.
        measure, rates, learners, images, tune: see `TaughtProxy`; by default with the learned rates.

    Raises:
        RecipeError: the file is no teacher file, or a value is out of range.
    """

    def __init__(
        self,
        teacher: str,
        steps: int | None = None,
        untrained: bool = False,
        measure: str = "accuracy",
        rates: Sequence[float] | None = None,
        learners: int = 1,
        images: int = 2000,
        tune: str = "architecture",
    ) -> None:
        if untrained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                recipe = read_recipe(teacher)
                check_sizes(recipe.model, read_shapes(teacher), teacher, recipe.trust)
                gtn = GTN.from_description(recipe.model, recipe.trust)
        else:
            gtn = GTN.from_teacher(teacher)
        super().__init__(gtn, steps, measure, rates, learners, images, tune)
        self.teacher = teacher
        self.untrained = untrained
        if untrained:
            self.name = "untrained teacher"

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Move the teacher to the device, and give it real images, which some begin as."""
        super().attach(space, data, device)
        made = self.gtn.teacher.fields["inputs"].sample_shape
        if made != tuple(data.image_shape):
            raise RecipeError(
                f"GTNProxy: {self.teacher} makes images of shape {list(made)}, but the data's "
                f"have {list(data.image_shape)}: give it the data that it was meta-trained with"
            )
        with torch.no_grad():
            real = data.some("train", REAL_SAMPLES, self.gtn.seed)
            self.gtn.teacher.attach(dict(zip(self.gtn.task.fields, real, strict=True)))
        self.gtn.to(self.device)

    def settings(self) -> Any:
        """Return what its scores depend on; see the base class. Of the teacher it is the contents, not the path."""
        parts = (self.gtn.task, self.gtn.teacher, self.gtn.curriculum, self.gtn.inner_optimizer)
        digest = hashlib.sha256(json.dumps([describe(part, rebuilt=False) for part in parts]).encode())
        for name, tensor in self.gtn.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        described = super().settings()
        described["init_args"]["teacher"] = digest.hexdigest()[:16]
        return described

    def overhead(self) -> Cost:
        """Return what meta-training cost, nothing for an untrained teacher, and tuning; see the base class."""
        tuning = super().overhead()
        if self.untrained:
            return tuning
        spent = read_meta_training(self.teacher)
        if spent is None:
            rank_zero_warn(f"{self.teacher} does not say what its meta-training cost: it was made by an older version")
            return tuning
        learners = int(spent["meta_steps"] * spent["processes"])
        steps = learners * self.gtn.inner_loop.steps
        return tuning + Cost(spent["seconds"] * spent["processes"], steps, steps * self.gtn.curriculum.batch_size)


class RealDataProxy(TaughtProxy):
    """Real training images, in the order of ordinary training.

    Args:
        steps: number of steps.
        batch_size: images in each.
        subset: number of images, drawn at random once, to train on; None for all of the training split.
        optimizer: the optimizer; None for Adam with rate 0.01.
        measure, rates, learners, images, tune: see `TaughtProxy`.

    Raises:
        RecipeError: a value is out of range.
    """

    def __init__(
        self,
        steps: int,
        batch_size: int = 64,
        subset: int | None = None,
        optimizer: InnerOptimizer | None = None,
        measure: str = "accuracy",
        rates: Sequence[float] | None = None,
        learners: int = 1,
        images: int = 2000,
        tune: str = "architecture",
    ) -> None:
        super().__init__(steps, measure, rates, learners, images, tune)
        if subset is not None and subset < 1:
            raise RecipeError(f"RealDataProxy: subset {subset} given, expected 1 or more, or null for all images")
        self.batch_size = batch_size
        self.subset = subset
        self.optimizer = optimizer or Adam(lr=0.01)
        self.name = "real data" if subset is None else f"{subset} real images"
        self._real: RealData | None = None

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Take the training images."""
        super().attach(space, data, device)
        images, labels = data.splits.train
        if self.subset is not None:
            if self.subset > len(labels):
                raise RecipeError(f"RealDataProxy: subset {self.subset} given, but there are {len(labels)} images")
            rows = torch.randperm(len(labels), generator=keyed_generator(0, "subset"))[: self.subset]
            images, labels = images[rows], labels[rows]
        self._real = RealData()
        self._real.attach({"inputs": data.normalise(images).to(self.device), "targets": labels.to(self.device)})
        self.optimizer.to(self.device)

    def plan(self, generator: torch.Generator) -> Plan:
        """Return shuffled passes over the images; see the base class."""
        assert self._real is not None
        classes = self.data.classes
        passes = ShuffledPasses(self.steps, self.batch_size, classes, self._real.size)
        return Plan(Classification(classes), self._real, passes.requests(generator, self.device), self.optimizer)
