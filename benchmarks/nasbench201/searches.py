"""Searches of NAS-Bench-201 in which the table answers instead of a training."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from benchmarks.nasbench201.study import Array
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.spaces import Architecture, NASBench201
from gtn_lightning.randomness import keyed_generator, keyed_seed

POPULATION, TOURNAMENT = 20, 5
"""Of regularized evolution."""

FIRST = 16
"""Random cells that a guided search begins with."""

EVERY = 8
"""Trainings between two fits of the regression."""


@dataclass(frozen=True)
class Ground:
    """What is searched: cells, all different, and their accuracies."""

    space: NASBench201
    cells: Sequence[Architecture]
    short: Array
    """Validation accuracy after 12 epochs, which a search sees at the price of that training, ``[cells]``."""
    true: Array
    """Test accuracy after 200 epochs, by which a search is judged, ``[cells]``."""
    inputs: Array
    """Of the regression, ``[cells, inputs]``."""
    prior: Array | None = None
    """A score that needs no training, from which the regression starts, ``[cells]``; None for none."""
    measuring: float = 0.0
    """CPU seconds of the measurements of all cells that precede the first training."""

    @property
    def places(self) -> Mapping[str, int]:
        """The place of every cell, by its canonical name."""
        return {self.space.canonical(cell): place for place, cell in enumerate(self.cells)}


Search = Callable[[Ground, int, int], Iterator[int]]
"""Yields the places of the cells that are trained, one after the other, by budget and seed."""


def at_random(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Train cells in random order."""
    yield from np.random.default_rng(keyed_seed(seed, "random")).permutation(len(ground.cells))[:budget].tolist()


def evolution(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Train a mutation of the best of a few of the newest (Real et al., "Regularized evolution", 2019)."""
    places, drawn = ground.places, random.Random(keyed_seed(seed, "evolution"))
    generator = keyed_generator(seed, "mutations")
    trained = list(at_random(ground, POPULATION, seed))
    yield from trained[:budget]
    for _ in range(budget - POPULATION):
        parent = max(drawn.sample(trained[-POPULATION:], TOURNAMENT), key=lambda place: ground.short[place])
        child, place = ground.cells[parent], None
        while place is None or place in trained:  # the table holds a third of the cells
            child = ground.space.mutate(child, generator)
            place = places.get(ground.space.canonical(child))
        trained.append(place)
        yield place


def tpe(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Train what Optuna's TPE proposes; proposals that the table does not hold, or twice, cost nothing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    places, decisions = ground.places, ground.space.decisions
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    trained: set[int] = set()
    while len(trained) < budget:
        trial = study.ask()
        choices = {key: str(trial.suggest_categorical(key, list(options))) for key, options in decisions.items()}
        cell = ground.space.architecture(choices)
        place = places.get(ground.space.canonical(cell))
        if place is None or place in trained:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        trained.add(place)
        study.tell(trial, float(ground.short[place]))
        yield place


def guided(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Train what a regression on all trained so far, `PredictedRank`'s, ranks highest, the first ones at random."""
    yield from _guided(ground, list(at_random(ground, FIRST, seed)), budget)


def by_rank(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Train what ranks highest without training; the seed has no effect."""
    if ground.prior is None:
        raise ValueError("a search by rank needs a ground with a prior")
    yield from np.argsort(-ground.prior, kind="stable")[:budget].tolist()


def by_rank_then_guided(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Begin with the cells that rank highest without training and as many at random, then train as `guided` does."""
    best = list(by_rank(ground, FIRST // 2, seed))
    others = [place for place in at_random(ground, FIRST, seed) if place not in best]
    yield from _guided(ground, [*best, *others[: FIRST - len(best)]], budget)


def _guided(ground: Ground, trained: list[int], budget: int) -> Iterator[int]:
    yield from trained[:budget]
    while len(trained) < budget:
        prior = ground.prior
        predictor = RankPredictor(
            ground.inputs[trained], ground.short[trained], None if prior is None else prior[trained]
        )
        predicted = np.array(predictor.predict(ground.inputs, prior))
        predicted[trained] = -np.inf
        for place in np.argsort(-predicted, kind="stable")[: min(EVERY, budget - len(trained))].tolist():
            trained.append(place)
            yield place


def best_so_far(ground: Ground, trained: Sequence[int]) -> Array:
    """Return the true accuracy, in percent, of the best cell by 12-epoch accuracy after each training."""
    best = [trained[int(np.argmax(ground.short[trained[: number + 1]]))] for number in range(len(trained))]
    accuracies: Array = 100 * ground.true[best]
    return accuracies
