"""Searches of NAS-Bench-201 in which the table answers instead of a training."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from benchmarks.nasbench201.bench import FULL
from benchmarks.nasbench201.costs import training_operations
from benchmarks.nasbench201.curves import append_line, read_lines
from benchmarks.nasbench201.study import TOGETHER, Array, Study
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.spaces import Architecture, NASBench201
from gtn_lightning.randomness import keyed_generator, keyed_seed

POPULATION, TOURNAMENT = 20, 5
"""Of regularized evolution."""

FIRST = 16
"""Random cells that a guided search begins with."""

EVERY = 8
"""Trainings between two fits of the regression."""

BUDGET, LONG_BUDGET, SEEDS, SHOWN = 40, 300, 100, (8, 16, 24, 40)
"""Trainings of a search, and of one that costs us nothing; searches; the numbers of trainings in the table."""

WANTED = 93.9
"""The accuracy that a search is to find, in percent."""


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
    untrained: Array | None = None
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
    assert ground.untrained is not None
    yield from np.argsort(-ground.untrained, kind="stable")[:budget].tolist()


def by_rank_then_guided(ground: Ground, budget: int, seed: int) -> Iterator[int]:
    """Begin with the cells that rank highest without training and as many at random, then train as `guided` does."""
    best = list(by_rank(ground, FIRST // 2, seed))
    others = [place for place in at_random(ground, FIRST, seed) if place not in best]
    yield from _guided(ground, [*best, *others[: FIRST - len(best)]], budget)


def _guided(ground: Ground, trained: list[int], budget: int) -> Iterator[int]:
    yield from trained[:budget]
    while len(trained) < budget:
        prior = ground.untrained
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


@dataclass(frozen=True)
class Plan:
    """Searches to run, with 100 seeds."""

    search: Search
    ground: Ground
    budget: int
    """Trainings."""


def plans(study: Study) -> dict[str, Plan]:
    """Return the searches by name."""
    space = study.bench.space(FULL)
    cells = [*study.bench.reported, *study.bench.known]
    cells = [cell for cell in cells if f"AZ-NAS {cell.name}" in study.cache.untrained()]
    scored = study.prior(cells)
    encoded = np.array([space.encode(cell) for cell in cells])
    fixed = study.twelve(cells), study.bench.accuracies(cells).numpy()
    seconds = len(cells) * sum(study.untrained_seconds(name) for name in TOGETHER)
    free = Ground(space, cells, *fixed, encoded)
    inputs = np.hstack([encoded, study.untrained("AZ-NAS", cells)])
    measured = Ground(space, cells, *fixed, inputs, scored, seconds)
    return {
        "random": Plan(at_random, free, LONG_BUDGET),
        "regularized evolution": Plan(evolution, free, LONG_BUDGET),
        "TPE": Plan(tpe, free, BUDGET),
        "regression on the choices": Plan(guided, free, BUDGET),
        "untrained rank": Plan(by_rank, measured, BUDGET),
        "regression from the untrained rank on": Plan(guided, measured, BUDGET),
        "untrained rank, then that regression": Plan(by_rank_then_guided, measured, BUDGET),
    }


def run_searches(study: Study, file: Path, until: float) -> None:
    """Run the searches that are not in a file, and add them to it."""
    known = {(row["search"], row["cells"], row["budget"], row["seed"]) for row in read_lines(file)}
    for name, plan in plans(study).items():
        for seed in range(SEEDS):
            if (name, len(plan.ground.cells), plan.budget, seed) in known:
                continue
            if time.monotonic() > until:
                return
            trained = list(plan.search(plan.ground, plan.budget, seed))
            key = {"search": name, "cells": len(plan.ground.cells), "budget": plan.budget, "seed": seed}
            append_line(file, {**key, "trained": trained})


@dataclass(frozen=True)
class Found:
    """What searches of one kind found."""

    accuracies: Array
    """Of their best cells, in percent, ``[seeds, trainings]``."""
    hours: Array
    """Of one CPU core after each training, if it trained the benchmark's own networks, ``[seeds, trainings]``."""

    @property
    def first(self) -> int | None:
        """Trainings after which the mean of the best is `WANTED`; None if never."""
        reached = np.flatnonzero(self.accuracies.mean(axis=0) >= WANTED)
        return int(reached[0]) + 1 if len(reached) else None


def searches(study: Study, file: Path, rate: float) -> tuple[str, dict[str, Found]]:
    """Return a table of the searches in a file, and what they found.

    Args:
        study: the measurements.
        file: of the searches.
        rate: operations of a training in a CPU second.
    """
    rows = list(read_lines(file))
    found: dict[str, Found] = {}
    table = []
    for name, plan in plans(study).items():
        ground = plan.ground
        key = name, len(ground.cells), plan.budget
        own = [row["trained"] for row in rows if (row["search"], row["cells"], row["budget"]) == key]
        if not own:
            continue
        operations = training_operations(study.bench, ground.cells)
        hours = (ground.measuring + np.cumsum(operations[np.array(own)], axis=1) / rate) / 3600
        found[name] = reached = Found(np.array([best_so_far(ground, trained) for trained in own]), hours)
        mean, deviation = reached.accuracies.mean(axis=0), reached.accuracies.std(axis=0, ddof=1)
        ends = [f"{mean[place - 1]:.2f} ± {deviation[place - 1]:.2f}" for place in SHOWN]
        share = f"{100 * np.mean(reached.accuracies[:, BUDGET - 1] >= WANTED):.0f} %"
        first = reached.first
        until = [str(first), f"{hours.mean(axis=0)[first - 1]:.1f}"] if first else [f"not in {plan.budget}", ""]
        table.append([name, str(len(own)), *ends, *until, share])
    header = ["search", "seeds", *(f"after {place}" for place in SHOWN), f"trainings until the mean is {WANTED}"]
    header += ["CPU hours until then", f"seeds above {WANTED} after {BUDGET}"]
    return markdown_table(header, table), found
