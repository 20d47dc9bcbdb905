"""The fair comparison: networks trained on synthetic data, beside what real data of the same size or cost teaches.

All sources train the same fresh networks with the inner optimizer of the file, without augmentation, and are scored on
the same real data. Real data gets the best of several constant rates and of the file's learned ones, chosen on the
validation split for the first network of an architecture. Synthetic data has its learned rates, and in a row of its own
the best of several multiples of them, chosen in the same way. They are for one pass; for several passes it chooses as
real data does. Random real samples with soft labels follow Qin et al., arXiv
2406.10485: experts are trained on all real data, and the labels are those of the training time that teaches best. A
subset of real data has as many samples as there are different synthetic ones, which may come several times in a pass.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning import replay
from gtn_lightning.distilled.file import DistilledSet
from gtn_lightning.distilled.learners import Factory, home_learners, other_learners
from gtn_lightning.distilled.real import RealSamples, Samples
from gtn_lightning.distilled.scores import Metric, card_of, fresh, metric_of
from gtn_lightning.errors import RecipeError
from gtn_lightning.randomness import keyed_generator

RATES = {
    "LARS": (0.02, 0.05, 0.1, 0.2),
    "SGD": (0.01, 0.03, 0.1, 0.3),
    "Adam": (0.001, 0.003, 0.01, 0.03),
}
"""Constant rates that real data chooses from, by inner optimizer."""

SCALES = (0.3, 0.6, 1.0)
"""Multiples of the learned rates that synthetic data chooses from."""

EXPERT_STEPS = (50, 200, 800)
"""Numbers of steps on all real data after which an expert's probabilities are tried as soft labels."""

TO_THE_END = 3000
"""Most steps of training on all real data to the end; it ends earlier when the validation score does not improve."""

THE_END = "all real data, to the end"
"""The source that shows what all real data reaches at any cost."""

SCALED = "synthetic, rates scaled"
"""The source that chooses a multiple of the learned rates."""

SYNTHETIC = ("synthetic", SCALED, "synthetic, hard labels")
"""Names of the sources of synthetic data."""

BY_EXPERTS = ("random real subset, best soft labels", "real subset by k-center", "real subset by herding")
"""Names of the sources that networks trained on all real data choose or label."""

NOT_TO_THE_END = "all real data, until time was up"
"""Name of training on all real data for which there was no time to the end."""

MOST = 10_000
"""Largest number of real samples that k-center and herding choose from."""


class Batches(NamedTuple):
    """The batches of one course, ``[T, B, ...]`` each."""

    inputs: Tensor
    targets: Tensor


@dataclass
class Row:
    """A source of training data and what networks reach on it."""

    source: str
    """What the networks are trained on."""
    equal: bool = True
    """Whether it is real data of the same number of steps, which synthetic data should surpass."""
    scores: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Scores ``[networks]`` by architecture and number of passes."""
    seconds: float = 0.0
    """Seconds of making the source and of training on it, with the rates that were tried and the experts."""


@dataclass
class Comparison:
    """The result of a comparison."""

    metric: Metric
    """The metric of all scores."""
    home: list[str]
    """The architectures that the synthetic data was made with."""
    others: list[str]
    """Architectures that it was not made with."""
    passes: list[int]
    """Numbers of passes over the data of a source."""
    rows: list[Row]
    """The sources; the first is the synthetic data as it is."""

    def mean(self, row: Row, passes: int, architectures: Sequence[str] | None = None) -> float:
        """Return a source's mean score over architectures, by default all."""
        names = architectures or [*self.home, *self.others]
        return float(torch.stack([row.scores[name, passes].mean() for name in names]).mean())

    def plain(self) -> dict[str, Any]:
        """Return the scores after one pass as plain data, for a card.

        ``mean`` and ``std`` are over all networks of all architectures; ``architectures`` has for each ``mean``,
        ``std``, ``met``, whether the data was made with it, and ``real``, the mean of the best real data of as many
        steps; ``sources`` has mean and seconds of every source.
        """
        first = self.rows[0]
        names = [*self.home, *self.others]
        every = torch.cat([first.scores[name, 1] for name in names])
        architectures = {}
        for name in names:
            scores = first.scores[name, 1]
            real = [self.mean(row, 1, [name]) for row in self.rows if row.equal]
            architectures[name] = {
                "mean": float(scores.mean()),
                "std": float(scores.std(correction=0)),
                "met": name in self.home,
                "real": real[self.metric.best(real)] if real else None,
            }
        return {
            "metric": self.metric.name,
            "split": "test",
            "networks": len(first.scores[names[0], 1]),
            "mean": float(every.mean()),
            "std": float(every.std(correction=0)),
            "architectures": architectures,
            "sources": {row.source: {"mean": self.mean(row, 1), "seconds": row.seconds} for row in self.rows},
        }

    def below(self, passes: int, source: str | None = None) -> dict[str, list[str]]:
        """Return the architectures that real data teaches better in as many steps, with the sources that do.

        Args:
            passes: number of passes.
            source: the synthetic data's source to compare with, by default the first.
        """
        first = next(row for row in self.rows if source in (None, row.source))
        found: dict[str, list[str]] = {}
        for name in [*self.home, *self.others]:
            own = float(first.scores[name, passes].mean())
            better = [row for row in self.rows if row.equal and self.metric.better(self.mean(row, passes, [name]), own)]
            if better:
                found[name] = [row.source for row in better]
        return found


def compare(
    data: DistilledSet,
    real: RealSamples,
    networks: int = 3,
    passes: Sequence[int] = (1, 10),
    seed: int = 0,
    learners: dict[str, Factory] | None = None,
    sources: Collection[str] | None = None,
    expert_steps: Sequence[int] = EXPERT_STEPS,
    most_steps: int = TO_THE_END,
    most_seconds: float = math.inf,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Compare synthetic data with real data of the same size and cost.

    Args:
        data: the synthetic data.
        real: the real data that it was made from.
        networks: number of fresh networks of each architecture.
        passes: how often a source's batches are gone through, ascending, beginning with 1.
        seed: seed of networks and of random choices.
        learners: architectures by name; those of the card and others that no packaged mixture has by default.
        sources: names of the sources to compare; None for all.
        expert_steps: numbers of steps on all real data after which an expert's probabilities are tried as soft labels.
        most_steps: most steps of training on all real data to the end.
        most_seconds: most seconds of that, for all architectures together.
        progress: called with the name of a source before its training.

    Raises:
        RecipeError: if there is no source of a name.
    """
    home = home_learners(data) if learners is None else learners
    others = other_learners(data) if learners is None else {}
    metric = metric_of(data)
    result = Comparison(metric, list(home), list(others), list(passes), [])
    bench = _Bench(data, real, {**home, **others}, networks, seed, passes, expert_steps)
    courses = dict(_sources(data, real, bench, seed))
    names = [*courses, THE_END]
    if unknown := [name for name in sources or () if name not in names]:
        raise RecipeError(f"sources must be among {', '.join(names)}, got {unknown[0]}")
    wanted = names if sources is None else [name for name in names if name in sources]
    began = time.perf_counter()
    if set(BY_EXPERTS) & set(wanted):
        bench.experts()
    expert_seconds = time.perf_counter() - began
    for name, make in courses.items():
        if name not in wanted:
            continue
        progress(name)
        began = time.perf_counter()
        row = Row(name, equal=name not in SYNTHETIC)
        course, scales = make()
        course = cache(course)  # the same at every rate, for every architecture
        for architecture in bench.architectures:
            for number in passes:
                row.scores[architecture, number] = bench.scores(architecture, course, number, scales)
        row.seconds = time.perf_counter() - began + (expert_seconds if name in BY_EXPERTS else 0.0)
        result.rows.append(row)
    if THE_END not in wanted:
        return result
    progress(THE_END)
    began = time.perf_counter()
    row = Row(THE_END, equal=False)
    for architecture in bench.architectures:
        scores, ended = bench.to_the_end(architecture, most_steps, most_seconds / len(bench.architectures))
        if not ended:
            row.source = NOT_TO_THE_END
        row.scores |= {(architecture, number): scores for number in passes}
    row.seconds = time.perf_counter() - began
    result.rows.append(row)
    return result


Course = Callable[[int], Batches]
"""The batches for a network's number: the same for all, or drawn for each; of one pass, or of all that are trained."""

Scales = tuple[float, ...] | None
"""The multiples of the learned rates that synthetic data chooses from; None for real data."""


def _sources(
    data: DistilledSet, real: RealSamples, bench: "_Bench", seed: int
) -> Iterator[tuple[str, Callable[[], tuple[Course, Scales]]]]:
    """Yield the sources: name, and a function that returns their course and the multiples of its learned rates."""
    steps, size, count, train = data.steps, data.batch_size, data.samples, real.train
    own = Batches(data.inputs, data.targets)
    yield "synthetic", lambda: (lambda number: own, (1.0,))
    yield SCALED, lambda: (lambda number: own, SCALES)
    if data.targets.is_floating_point() and data.classes:
        hard = Batches(data.inputs, data.targets.argmax(2))
        yield "synthetic, hard labels", lambda: (lambda number: hard, (1.0,))

    def random_subset(number: int) -> Samples:
        return train.take(_balanced(train.targets, count, data.classes, seed, number))

    def batched(samples: Samples, number: int, passes: int = 1) -> Batches:
        """Return batches for so many passes: all samples in random order, then again."""
        order = torch.randperm(len(samples.inputs), generator=keyed_generator(seed, "order", number))
        order = order.repeat(-(-passes * steps * size // len(order)))[: passes * steps * size]
        return Batches(*(part[order].unflatten(0, (passes * steps, size)) for part in samples))

    yield "random real subset", lambda: (lambda number: batched(random_subset(number), number), None)
    if data.classes:
        yield "random real subset, best soft labels", lambda: (bench.soft(random_subset, batched), None)
        for name, choose in (("k-center", _k_center), ("herding", _herding)):
            if count <= min(len(train.inputs), MOST):

                def chosen(choose: Callable[[Samples, int, int], Tensor] = choose) -> tuple[Course, Scales]:
                    subset = bench.in_feature_space(choose, count)
                    return (lambda number: batched(subset, number)), None

                yield f"real subset by {name}", chosen

    # As many steps on new samples, not several passes over as many samples as one pass has.
    most = max(bench.passes)
    yield "all real data, as many steps", lambda: (lambda number: batched(train, number, most), None)


class _Bench:
    """Trains and scores fresh networks."""

    def __init__(
        self,
        data: DistilledSet,
        real: RealSamples,
        architectures: dict[str, Factory],
        networks: int,
        seed: int,
        passes: Sequence[int],
        expert_steps: Sequence[int],
    ) -> None:
        self.data = data
        self.passes = passes
        self.real = real
        self.architectures = architectures
        self.networks = networks
        self.seed = seed
        self.metric = metric_of(data)
        self.how = data.card.optimizer
        self.expert_steps = expert_steps
        self._experts: list[nn.Module] = []

    def train(self, network: nn.Module, batches: Batches, passes: int, rate: float | None, scale: float = 1.0) -> None:
        """Train a network with the learned rates, scaled, or with a constant one and each other setting's mean."""
        # A course longer than one pass is not gone through again.
        if longer := len(batches.inputs) > self.data.steps:
            batches = Batches(*(part[: passes * self.data.steps] for part in batches))
        fields = dict(zip(self.data.card.fields, batches, strict=True))
        steps = len(batches.inputs)
        for name in self.how["hyperparameters"]:
            values = self.data.tensors[name]
            fields[name] = values.repeat(steps // len(values)) if rate is None else values.mean().expand(steps)
        if rate is not None:
            fields["lr"] = torch.full((steps,), rate)
        replay.train(network, fields, card_of(self.data), scale=scale, passes=1 if longer else passes)

    def scores(self, architecture: str, course: Course, passes: int, scales: Scales) -> Tensor:
        """Return the test scores of fresh networks, ``[networks]``, at the best learned or constant rates."""
        rates: list[tuple[float | None, float]] = [(None, scale) for scale in scales or (1.0,)]
        if scales is None or passes > 1:
            rates += [(rate, 1.0) for rate in RATES[self.how["name"]]]

        def trained(number: int, rate: float | None, scale: float) -> nn.Module:
            network = fresh(self.architectures[architecture], self.seed, number)
            self.train(network, course(number), passes, rate, scale)
            return network

        networks = [trained(0, *rate) for rate in rates]
        best = self.metric.best([self.metric.of(network, self.real.val) for network in networks])
        networks = [networks[best], *(trained(number, *rates[best]) for number in range(1, self.networks))]
        return torch.tensor([self.metric.of(network, self.real.test) for network in networks])

    def soft(self, subset: Callable[[int], Samples], batched: Callable[[Samples, int], Batches]) -> Course:
        """Return random samples with the soft labels that teach the first network best."""

        def labeled(expert: nn.Module, number: int) -> Batches:
            samples = subset(number)
            return batched(Samples(samples.inputs, _probabilities(expert, samples.inputs)), number)

        def best_score(expert: nn.Module) -> float:
            batches, scores = labeled(expert, 0), []
            for rate in RATES[self.how["name"]]:
                network = self._first()
                self.train(network, batches, 1, rate)
                scores.append(self.metric.of(network, self.real.val))
            return max(scores)

        return partial(labeled, max(self.experts(), key=best_score))

    def _first(self) -> nn.Module:
        return fresh(next(iter(self.architectures.values())), self.seed, 0)

    def experts(self) -> list[nn.Module]:
        """Return a network of the first architecture after several numbers of steps on all real data."""
        if self._experts:
            return self._experts
        network = self._first()
        for step, _ in enumerate(self._adam(network, max(self.expert_steps)), start=1):
            if step in self.expert_steps:
                copy = self._first()
                copy.load_state_dict(network.state_dict())
                self._experts.append(copy.eval())
        return self._experts

    def _adam(self, network: nn.Module, steps: int) -> Iterator[None]:
        """Train a network on all real data with Adam; yield after every step."""
        train, criterion = self.real.train, replay.LOSSES[self.data.card.loss]
        optimizer = torch.optim.Adam(network.train().parameters(), 3e-3)
        generator = keyed_generator(self.seed, "experts")
        for _ in range(steps):
            rows = torch.randint(len(train.inputs), (64,), generator=generator)
            optimizer.zero_grad()
            criterion(network(train.inputs[rows]), train.targets[rows]).backward()
            optimizer.step()
            yield

    def to_the_end(self, architecture: str, most_steps: int, most_seconds: float) -> tuple[Tensor, bool]:
        """Train a network on all real data until its validation score stops to improve.

        Returns:
            The test score ``[1]``, and whether there was time enough.
        """
        network = fresh(self.architectures[architecture], self.seed, 0)
        best, state, waited, began, ended = None, network.state_dict(), 0, time.perf_counter(), True
        for step, _ in enumerate(self._adam(network, most_steps), start=1):
            ended = time.perf_counter() - began < most_seconds
            if step % 200 and step < most_steps and ended:
                continue
            score = self.metric.of(network, self.real.val)
            network.train()
            waited += 1
            if best is None or self.metric.better(score, best):
                best, waited = score, 0
                state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            if waited == 3 or not ended:
                break
        network.load_state_dict(state)
        return torch.tensor([self.metric.of(network, self.real.test)]), ended

    def in_feature_space(self, choose: Callable[[Samples, int, int], Tensor], count: int) -> Samples:
        """Return real samples, equally many of each class, chosen by an expert's logits."""
        train = self.real.train
        rows = torch.randperm(len(train.inputs), generator=keyed_generator(self.seed, "features"))[:MOST]
        expert = self.experts()[-1]
        with torch.no_grad():
            features = torch.cat([expert(part) for part in train.inputs[rows].split(1000)])
        classes = self.data.classes or 1
        picked = choose(Samples(F.normalize(features), train.targets[rows]), count, classes)
        return train.take(rows[picked])


def _probabilities(expert: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return expert(inputs).softmax(1)


def _balanced(targets: Tensor, count: int, classes: int | None, seed: int, number: int) -> Tensor:
    """Return rows, equally many of each class as far as there are enough, in random order."""
    order = torch.randperm(len(targets), generator=keyed_generator(seed, "subset", number))
    if classes is None:
        return order[:count]
    ranks = torch.empty_like(order)
    for label in range(classes):
        rows = (targets[order] == label).nonzero()[:, 0]
        ranks[rows] = torch.arange(len(rows))
    return order[ranks.argsort(stable=True)][:count]


def _by_class(samples: Samples, count: int, classes: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the rows of each class, their features, and how many are to be chosen of it."""
    for label in range(classes):
        rows = (samples.targets == label).nonzero()[:, 0]
        share = count // classes + (label < count % classes)
        yield rows, samples.inputs[rows], min(share, len(rows))


def _k_center(samples: Samples, count: int, classes: int) -> Tensor:
    """Choose by greedy k-center (Sener and Savarese, arXiv 1708.00489), within each class."""
    picked = []
    for rows, features, share in _by_class(samples, count, classes):
        if not share:
            continue
        chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
        distance = (features - features[chosen[0]]).norm(dim=1)
        while len(chosen) < share:
            chosen.append(int(distance.argmax()))
            distance = torch.minimum(distance, (features - features[chosen[-1]]).norm(dim=1))
        picked.append(rows[torch.tensor(chosen)])
    return torch.cat(picked)


def _herding(samples: Samples, count: int, classes: int) -> Tensor:
    """Choose by herding (Welling, 2009): the mean of the chosen features follows that of the class."""
    picked = []
    for rows, features, share in _by_class(samples, count, classes):
        mean, total, chosen = features.mean(0), torch.zeros_like(features[0]), []
        free = torch.ones(len(features), dtype=torch.bool)
        for number in range(share):
            gap = (mean - (total + features) / (number + 1)).norm(dim=1)
            best = int(torch.where(free, gap, torch.inf).argmin())
            free[best] = False
            total = total + features[best]
            chosen.append(best)
        picked.append(rows[torch.tensor(chosen, dtype=torch.int64)])
    return torch.cat(picked)
