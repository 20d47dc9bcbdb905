"""The searches that are run, and what they found."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.nasbench201.bench import FULL
from benchmarks.nasbench201.costs import Speed, training_operations
from benchmarks.nasbench201.curves import append_line, read_lines
from benchmarks.nasbench201.searches import (
    EVERY,
    FIRST,
    POPULATION,
    TOURNAMENT,
    Ground,
    Search,
    at_random,
    best_so_far,
    by_rank,
    by_rank_then_guided,
    evolution,
    guided,
    tpe,
)
from benchmarks.nasbench201.study import TOGETHER, Array, Study
from benchmarks.report import markdown_table
from gtn_lightning.nas.spaces import Architecture

BUDGET, LONG_BUDGET, SEEDS, SHOWN = 40, 300, 100, (8, 16, 24, 40)
"""Trainings of a search, and of one that costs us nothing; searches; the numbers of trainings in the table."""

WANTED = 93.9
"""The accuracy that a search is to find, in percent."""


@dataclass(frozen=True)
class Plan:
    """Searches of one kind."""

    search: Search
    ground: Ground
    budget: int
    """Trainings."""
    seeds: int = SEEDS

    def digest(self) -> str:
        """Return a digest of what the searches depend on besides their seeds."""
        ground = self.ground
        told = [ground.short, ground.inputs] + ([] if ground.prior is None else [ground.prior])
        facts = [*(cell.name for cell in ground.cells), str((self.budget, FIRST, EVERY, POPULATION, TOURNAMENT))]
        # Rounded, since sums of another order are the same measurement.
        numbers = b"".join(np.round(one, 6).tobytes() for one in told)
        return hashlib.sha256("\n".join(facts).encode() + numbers).hexdigest()[:16]


def searched_cells(study: Study) -> list[Architecture]:
    """Return the cells that all searches search: those of both halves that are measured without training."""
    return list(filter(study.is_measured, [*study.bench.reported, *study.bench.known]))


def plans(study: Study) -> dict[str, Plan]:
    """Return the searches by name; none if fewer cells are measured without training than a search trains."""
    space = study.bench.space(FULL)
    cells = searched_cells(study)
    if len(cells) < LONG_BUDGET:
        print(f"searches need {LONG_BUDGET} cells that are measured without training, got {len(cells)}")
        return {}
    encoded = np.array([space.encode(cell) for cell in cells])
    accuracies = study.twelve(cells), study.bench.accuracies(cells).numpy()
    free = Ground(space, cells, *accuracies, encoded)
    inputs = np.hstack([encoded, study.untrained("AZ-NAS", cells)])
    seconds = len(cells) * sum(study.untrained_seconds(name) for name in TOGETHER)
    measured = Ground(space, cells, *accuracies, inputs, study.prior(cells), seconds)
    return {
        "random": Plan(at_random, free, LONG_BUDGET),
        "regularized evolution": Plan(evolution, free, LONG_BUDGET),
        "TPE": Plan(tpe, free, BUDGET),
        "regression on the choices": Plan(guided, free, BUDGET),
        "untrained rank": Plan(by_rank, measured, BUDGET, seeds=1),
        "regression with a prior": Plan(guided, measured, BUDGET),
        "untrained rank, then that regression": Plan(by_rank_then_guided, measured, BUDGET),
    }


def run_searches(study: Study, file: Path, until: float) -> None:
    """Run the searches that are not in a file, and add them to it, until ``time.monotonic()`` exceeds a limit."""
    known = {(row["search"], row["digest"], row["seed"]) for row in read_lines(file)}
    for name, plan in plans(study).items():
        digest = plan.digest()
        for seed in range(plan.seeds):
            if (name, digest, seed) in known:
                continue
            if time.monotonic() > until:
                print(f"{name}: {plan.seeds - seed} of {plan.seeds} searches left for another run")
                return
            trained = [plan.ground.cells[place].name for place in plan.search(plan.ground, plan.budget, seed)]
            append_line(file, {"search": name, "digest": digest, "seed": seed, "trained": trained})


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

    def words(self) -> str:
        """Return how many trainings and hours it takes to find `WANTED`."""
        if self.first is None:
            return f"not in {self.accuracies.shape[1]} trainings"
        return f"{self.first} trainings, {self.hours.mean(axis=0)[self.first - 1]:.1f} CPU hours"

    def cells(self) -> list[str]:
        """Return the numbers as a table shows them."""
        seeds = len(self.accuracies)
        mean = self.accuracies.mean(axis=0)
        deviation = self.accuracies.std(axis=0, ddof=1) if seeds > 1 else None
        ends = [
            f"{mean[place - 1]:.2f}" + (f" ± {deviation[place - 1]:.2f}" if deviation is not None else "")
            for place in SHOWN
        ]
        share = f"{100 * np.mean(self.accuracies[:, BUDGET - 1] >= WANTED):.0f} %" if seeds > 1 else ""
        return [str(seeds), *ends, self.words(), share]


def searches_table(study: Study, file: Path, speed: Speed) -> tuple[str, Mapping[str, Found]]:
    """Return a table of the searches in a file, and what they found.

    Args:
        study: the measurements.
        file: of the searches.
        speed: of a training.
    """
    rows = list(read_lines(file))
    found: dict[str, Found] = {}
    cells = searched_cells(study)
    places = {cell.name: place for place, cell in enumerate(cells)}
    operations = training_operations(study.bench, cells)
    for name, plan in plans(study).items():
        ground, digest = plan.ground, plan.digest()
        own = [row["trained"] for row in rows if (row["search"], row["digest"]) == (name, digest)]
        if not own:
            continue
        trained = [[places[cell] for cell in one] for one in own]
        hours = (ground.measuring + np.cumsum(operations[np.array(trained)], axis=1) / speed.mean) / 3600
        found[name] = Found(np.array([best_so_far(ground, one) for one in trained]), hours)
    header = ["search", "seeds", *(f"after {place}" for place in SHOWN), f"until the mean is {WANTED}"]
    header.append(f"seeds above {WANTED} after {BUDGET}")
    return markdown_table(header, [[name, *one.cells()] for name, one in found.items()]), found
