"""The base classes of proxies that train a fresh network for a few steps and score it on validation images."""

import math
import time
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import Functional, InnerOptimizer, Snapshot
from gtn_lightning.nas.proxies.base import Cost, Features, Proxy, Report, Score, Scorer
from gtn_lightning.nas.proxies.rates import TUNE, rates_of
from gtn_lightning.nas.spaces import Architecture
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.tasks import Task
from gtn_lightning.teachers import Teacher, TeacherInput
from gtn_lightning.teaching import lessons

MEASURES = ("accuracy", "loss", "area", "training_loss")
"""How a learning curve is reduced to one score: the accuracy or the loss after the last step; the mean of the
accuracies at several steps, the area under the curve; or the mean training loss of the last half of the steps."""

POINTS = 8
"""Number of points of a learning curve, where its area is wanted or a pruner may end the training early."""

HALVINGS = 4
"""Number of points of a learning curve that become inputs of a regression."""

DIVERGED = 100.0
"""The highest loss of a learning curve as the input of a regression."""

SCORED_AT_ONCE = 500
"""Validation images in one forward pass."""


class Plan(NamedTuple):
    """Everything that a training consists of, except the network."""

    task: Task
    teacher: Teacher
    requests: Sequence[TeacherInput]
    optimizer: InnerOptimizer


class CurvePoint(NamedTuple):
    """A network after some steps of its training: a point of its learning curve."""

    step: int
    accuracy: float
    """On validation images, between 0 and 1."""
    loss: float
    """On the same images."""
    cost: Cost
    """From the start of the training to this point."""
    evaluation_cost: Cost
    """The part of the cost that scoring at this point took."""
    training_losses: tuple[float, ...]
    """The loss of every step so far, on its batch before the step."""


class TaughtProxy(Proxy):
    """The base of proxies that train a network for a few steps.

    Args:
        steps: number of inner steps.
        measure: one of `MEASURES`.
        rates: inner learning rates to try, each in a training, of which the best counts; None for the optimizer's own,
            whether learned or given.
        tune: one of `TUNE`: try the rates for each ``architecture``, or for each ``family`` of the space alone.
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
        kind = type(self).__name__
        for key, text, options in (("measure", measure, MEASURES), ("tune", tune, TUNE)):
            if text not in options:
                raise RecipeError(f"{kind}: {key} must be one of {', '.join(options)}, got {text!r}")
        for key, value in (("steps", steps), ("learners", learners), ("images", images)):
            if value < 1:
                raise RecipeError(f"{kind}: {key} must be at least 1, got {value}")
        if measure == "training_loss" and steps < 2:
            raise RecipeError(f"{kind}: steps must be at least 2 with measure 'training_loss', got {steps}")
        if rates is not None and (not rates or min(rates) <= 0):
            raise RecipeError(f"{kind}: rates must be positive numbers, at least one, got {list(rates)}")
        if tune == "family" and rates is None:
            raise RecipeError(f"{kind}: tune 'family' chooses one of several rates, but there are none: give rates")
        self.steps = steps
        self.measure = measure
        self.rates = None if rates is None else list(rates)
        self.learners = learners
        self.images = images
        self.tune = tune


class TaughtScorer(Scorer):
    """Trains networks for a few steps; a scorer of your own writes `plan`."""

    proxy: TaughtProxy

    def __post_init__(self) -> None:
        super().__post_init__()
        proxy = self.proxy
        images, labels = self.data.splits.val
        self._images = self.data.normalize(images[: proxy.images].to(self.device))
        self._labels = labels[: proxy.images].to(self.device)
        spread = {max(1, round(proxy.steps * (number + 1) / POINTS)) for number in range(POINTS)}
        self._several, self._last = sorted(spread), [proxy.steps]
        self.rates = rates_of(proxy.rates, proxy.tune, self.space, self._attempt)

    @abstractmethod
    def plan(self, generator: torch.Generator) -> Plan:
        """Return what a training consists of; all random numbers come from the generator."""

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Train fresh networks of an architecture and score them; see the base class.

        The values so far of the first training are reported.
        """
        points = self._last if self.proxy.measure != "area" and report is None else self._several
        cost = Cost()
        best = -math.inf
        for rate in self.rates.candidates(architecture):
            values = []
            for number in range(self.proxy.learners):
                curve: list[CurvePoint] = []
                for point in self.curve(architecture, seed * self.proxy.learners + number, points, rate):
                    curve.append(point)
                    if report is not None and cost == Cost() and report(point.step, self.value(curve)):
                        return Score(self.value(curve), curve[-1].cost)
                values.append(self.value(curve))
                cost += curve[-1].cost
            best = max(best, sum(values) / len(values))
        return Score(best, cost)

    def features(self, architecture: Architecture, seed: int = 0) -> Features:
        """Return the logarithms of the training and validation losses of fresh networks, at every rate that is tried.

        They are those of `curve_features` after the last step, half as many, and so on, `HALVINGS` numbers of steps in
        all: means over the learners.
        """
        steps = self.proxy.steps
        points = sorted({max(1, steps >> halving) for halving in range(HALVINGS)})
        values: list[float] = []
        cost = Cost()
        for rate in self.rates.candidates(architecture):
            vectors = []
            for number in range(self.proxy.learners):
                curve = list(self.curve(architecture, seed * self.proxy.learners + number, points, rate))
                looks = {point.step: point.loss for point in curve}
                vectors.append(curve_features(curve[-1].training_losses, looks))
                cost += curve[-1].cost
            values += [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
        return Features(tuple(values), cost)

    def overhead(self) -> Cost:
        """Return what choosing rates for families has cost so far."""
        return self.rates.cost

    def value(self, curve: Sequence[CurvePoint]) -> float:
        """Return the value of a learning curve so far, -inf for a network that diverged."""
        if not math.isfinite(curve[-1].loss):
            return -math.inf
        value = {
            "accuracy": curve[-1].accuracy,
            "loss": -curve[-1].loss,
            "area": sum(point.accuracy for point in curve) / len(curve),
            "training_loss": -mean_of_last_half(curve[-1].training_losses),
        }[self.proxy.measure]
        return value if math.isfinite(value) else -math.inf

    def curve(
        self, architecture: Architecture, seed: int, points: Collection[int], rate: float | None = None
    ) -> Iterator[CurvePoint]:
        """Train one network, and score it after these numbers of steps.

        Args:
            architecture: a member of the search space.
            seed: of the network's initial parameters, and of the random part of the data, which is the same for all
                architectures.
            points: numbers of inner steps, at least 1; the training ends with the last.
            rate: the inner learning rate, if not the optimizer's own.
        """
        began = time.perf_counter()
        with keyed_rng(seed, self.name, architecture.name, device=self.device), torch.inference_mode(False):
            network = self.space.build(architecture).to(self.device)
            # The same data for all architectures, so that no score is better only because its data was.
            plan = self.plan(keyed_generator(seed, self.name))
        optimizer = plan.optimizer if rate is None else plan.optimizer.constant(lr=rate)
        forward = self.flops(architecture, network)
        trained = scored = 0
        training_losses: list[float] = []
        # Mode remat: the gradient itself is the same in all modes, and this one compiles nothing.
        for lesson in lessons(network, plan.task, plan.teacher, plan.requests, optimizer, "remat"):
            trained += len(plan.requests[lesson.step - 1].index)
            training_losses.append(float(lesson.loss))
            if lesson.step not in points:
                continue
            evaluated = time.perf_counter()
            accuracy, loss = self._evaluate(network, plan.task, lesson.learner)
            now, images = time.perf_counter(), len(self._labels)
            scored += images
            cost = Cost(now - began, lesson.step, trained + scored, forward * (3.0 * trained + scored))
            evaluation_cost = Cost(now - evaluated, images=images, flops=float(forward * images))
            yield CurvePoint(lesson.step, accuracy, loss, cost, evaluation_cost, tuple(training_losses))
            if lesson.step == max(points):
                return

    def _attempt(self, architecture: Architecture, rate: float) -> tuple[float, Cost]:
        points = self._several if self.proxy.measure == "area" else self._last
        curve = list(self.curve(architecture, 0, points, rate))
        return self.value(curve), curve[-1].cost

    def _evaluate(self, network: nn.Module, task: Task, learner: Snapshot) -> tuple[float, float]:
        functional, leading, losses = Functional(network), task.metrics()[0], 0.0
        metric = leading.fresh(torch.device(self.device))
        with torch.no_grad():
            for batch in zip(self._images.split(SCORED_AT_ONCE), self._labels.split(SCORED_AT_ONCE), strict=True):
                loss = task.score(functional, learner.params, learner.buffers, batch, [metric])
                losses += float(loss) * len(batch[1])
        return leading.utility(float(metric.compute())), losses / len(self._labels)


def curve_features(training_losses: Sequence[float], validation_losses: Mapping[int, float]) -> tuple[float, ...]:
    """Return a learning curve as numbers for a regression.

    For every number of steps with a validation loss: the mean logarithm of the training losses since the last such
    number, and the logarithm of the validation loss. Means, since a regression that is told a few dozen accuracies
    learns less from a hundred noisy inputs than from a few.

    Args:
        training_losses: of every step.
        validation_losses: by number of steps, in increasing order.
    """
    features: list[float] = []
    last = 0
    for step, loss in validation_losses.items():
        logs = [_log(one) for one in training_losses[last:step]]
        features += [sum(logs) / len(logs), _log(loss)]
        last = step
    return tuple(features)


def _log(loss: float) -> float:
    """Return the logarithm of a loss, that of `DIVERGED` where it is not finite."""
    return math.log(min(max(loss, 1e-6), DIVERGED)) if math.isfinite(loss) else math.log(DIVERGED)


def mean_of_last_half(losses: Sequence[float]) -> float:
    """Return the mean of the last half of the training losses, rounded up to whole steps."""
    last = losses[len(losses) // 2 :]
    return sum(last) / len(last)
