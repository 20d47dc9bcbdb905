"""Searches of NAS-Bench-201 in which the table answers instead of a training."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

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
    short: NDArray[np.float64]
    """Validation accuracy after 12 epochs, which a search sees at the price of that training, ``[cells]``."""
    true: NDArray[np.float64]
    """Test accuracy after 200 epochs, by which a search is judged, ``[cells]``."""
    inputs: NDArray[np.float64]
    """Of the regression, ``[cells, inputs]``."""

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
    """Train what a regression on all trained so far, `PredictedRank`'s, ranks highest."""
    trained = list(at_random(ground, FIRST, seed))
    yield from trained[:budget]
    while len(trained) < budget:
        predictor = RankPredictor(ground.inputs[trained], ground.short[trained])
        predicted = np.array(predictor.predict(ground.inputs))
        predicted[trained] = -np.inf
        for place in np.argsort(-predicted, kind="stable")[: min(EVERY, budget - len(trained))].tolist():
            trained.append(place)
            yield place


def incumbent(search: Search, ground: Ground, budget: int, seed: int) -> NDArray[np.float64]:
    """Return the true accuracy, in percent, of the best cell by 12-epoch accuracy after each training, ``[budget]``."""
    trained = list(search(ground, budget, seed))
    best = [trained[int(np.argmax(ground.short[trained[: number + 1]]))] for number in range(budget)]
    accuracies: NDArray[np.float64] = 100 * ground.true[best]
    return accuracies
