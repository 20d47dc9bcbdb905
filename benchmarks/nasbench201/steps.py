"""What trainings of few steps say about a cell, on real and on synthetic images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.nasbench201.curves import LOOKS
from benchmarks.nasbench201.study import (
    LEARNERS,
    MIN_CELLS,
    SCORES,
    TUNED,
    Array,
    Quality,
    Study,
    interval,
    looks_of,
    quality,
    shown,
    spearman,
)
from benchmarks.report import markdown_table
from gtn_lightning.nas.spaces import Architecture

EQUAL_RESAMPLES = 300
"""Bootstrap resamples of the number of real steps, which takes longer than one correlation."""

Qualities = Mapping[tuple[str, str, int], Quality]
"""By data, score and steps."""


def steps_table(study: Study) -> tuple[str, Qualities]:
    """Return a table of what steps on real and on synthetic data say, by score and number of steps."""
    found: dict[tuple[str, str, int], Quality] = {}
    rows = []
    for name, source in study.sources.items():
        for step in (look for look in LOOKS if look >= 8 and study.seeds(source, study.reported, look)):
            for score in SCORES:
                found[name, score, step] = quality(study.scores(source, score, step), study.truth)
            best = {score: found[name, score, step] for score in SCORES}
            rows.append(
                [
                    *(name, str(step), str(len(study.seeds(source, study.reported, step)))),
                    f"{study.seconds(source, step):.1f}",
                    *(shown(best[score].spearman) for score in SCORES),
                    shown(best["validation loss"].tenth),
                    f"{best['validation loss'].regret:.2f}",
                ]
            )
    header = ["data", "steps", "seeds", "CPU seconds", *SCORES, "validation loss, top tenth", "its regret of 5"]
    return markdown_table(header, rows), found


def best_steps(study: Study, most: int) -> tuple[str, str, int, int]:
    """Return the data, score, steps and learners that rank the other half's cells best, nothing told.

    Args:
        study: the measurements.
        most: number of steps of all learners at most.
    """
    truth = study.bench.accuracies(study.compared).numpy()
    found: dict[tuple[str, str, int, int], float] = {}
    for name, source in study.untold.items():
        for step in LOOKS:
            seeds = min(len(study.seeds(source, some, step)) for some in (study.compared, study.reported))
            for learners in (k for k in (1, 2, LEARNERS) if k <= seeds and k * step <= most):
                for score in SCORES:
                    values = study.scores(source, score, step, study.compared, learners)
                    found[name, score, step, learners] = spearman(values, truth)
    return max(found, key=lambda key: found[key])


def learners_qualities(study: Study, cells: Sequence[Architecture]) -> Mapping[tuple[str, str, int, int], Quality]:
    """Return how well the mean ranks by several short trainings rank cells, by data, score, steps and learners."""
    truth = study.bench.accuracies(cells).numpy()
    return {
        (name, score, step, learners): quality(study.scores(source, score, step, cells, learners), truth)
        for name, source in study.untold.items()
        for step in LOOKS
        if step >= 8 and len(study.seeds(source, cells, step)) >= LEARNERS
        for learners in (1, 2, LEARNERS)
        for score in SCORES
    }


def learners_table(study: Study, found: Mapping[tuple[str, str, int, int], Quality]) -> str:
    """Return a table of what `learners_qualities` found for the reported cells."""
    rows = []
    for name, step, learners in dict.fromkeys((name, step, learners) for name, _, step, learners in found):
        seconds = learners * study.seconds(study.untold[name], step)
        row = [name, str(step), str(learners), str(step * learners), f"{seconds:.1f}"]
        rows.append([*row, *(shown(found[name, score, step, learners].spearman) for score in SCORES)])
    return markdown_table(["data", "steps", "learners", "steps in all", "CPU seconds", *SCORES], rows)


def paired_table(study: Study) -> str:
    """Return a table of synthetic steps beside as many real ones and four times as many, over the same cells."""
    rows = []
    for name, source in study.teachers.items():
        for step in (look for look in LOOKS if look >= 8 and study.seeds(source, study.reported, look)):
            for score in ("validation loss", "training loss"):
                own = study.scores(source, score, step)
                row = [name, str(step), score, f"{spearman(own, study.truth):.2f}"]
                for times in (1, 4):
                    other = study.scores(study.real, score, times * step)
                    row.append(shown(_gap(own, other, study.truth), "+.2f") if len(other) else "")
                rows.append(row)
    header = ["data", "steps", "score", "Spearman", "less as many real steps", "less four times as many"]
    return markdown_table(header, rows)


def _gap(own: Array, other: Array, truth: Array) -> tuple[float, float, float]:
    """Return the difference of two correlations over the same cells, with its interval."""

    def gap(places: NDArray[np.intp]) -> float:
        return spearman(own[:, places], truth[places]) - spearman(other[:, places], truth[places])

    return interval(gap, len(truth))


def long_cells(study: Study) -> list[Architecture]:
    """Return the reported cells with a longer training; none if these are too few for a table."""
    known = study.cache.curves(study.long)
    cells = [cell for cell in study.reported if LOOKS[-1] in looks_of(known.get((cell.name, 0)))]
    return cells if len(cells) >= MIN_CELLS else []


def real_source(study: Study, cells: Sequence[Architecture], step: int) -> str:
    """Return the source of scores on real images: the shorter trainings, of more seeds, or the longer."""
    return study.real if study.seeds(study.real, cells, step) else study.long


def longer_table(study: Study) -> tuple[str, Qualities]:
    """Return a table of trainings on real images over the cells that have a longer one; nothing if these are too few.

    Returns:
        The table, and the quality of real and synthetic steps on these cells.
    """
    cells = long_cells(study)
    if not cells:
        return "", {}
    truth = study.bench.accuracies(cells).numpy()
    rows, found = [], {}
    for step in (look for look in LOOKS if look >= 16):
        source = real_source(study, cells, step)
        for score in SCORES:
            found["real images", score, step] = quality(study.scores(source, score, step, cells), truth)
        seeds, seconds = len(study.seeds(source, cells, step)), study.seconds(source, step, cells)
        row = [str(step), str(seeds), f"{seconds:.1f}"]
        rows.append([*row, *(shown(found["real images", score, step].spearman) for score in SCORES)])
    for name, source in {**study.rates, **study.teachers}.items():
        for step in (look for look in LOOKS if look >= 16 and study.seeds(source, cells, look)):
            for score in SCORES:
                found[name, score, step] = quality(study.scores(source, score, step, cells), truth)
    table = markdown_table(["real steps", "seeds", "CPU seconds", *SCORES], rows)
    return f"{len(cells)} cells with a longer training.\n\n{table}", found


@dataclass(frozen=True)
class Equal:
    """How many steps on real images rank as well as some on a teacher's, by the same score."""

    teacher: str
    steps: int
    score: str
    spearman: float
    real: tuple[float, float, float]
    """The fewest steps on real images that reach it, and the ends of a 95 % bootstrap interval; infinite if none of
    `LOOKS` does.
    """
    saved: float
    """CPU seconds saved a cell; at least so many if `real` is infinite."""
    meta: float
    """CPU seconds of the meta-training."""

    def words(self) -> str:
        """Return the number of real steps as a table shows it."""
        value, low, high = (f"{one:.0f}" if np.isfinite(one) else f"over {LOOKS[-1]}" for one in self.real)
        return f"{value} [{low}, {high}]"

    def pays(self) -> str:
        """Return the number of cells from which on the meta-training pays, as a table shows it."""
        if self.saved <= 0:
            return "never"
        bound = "" if np.isfinite(self.real[0]) else "at most "
        return f"{bound}{np.ceil(self.meta / self.saved):.0f}"


def equal_table(study: Study, seconds: Mapping[str, float]) -> tuple[str, list[Equal]]:
    """Return a table of how many real steps rank as well as a teacher's, and its rows.

    Args:
        study: the measurements.
        seconds: CPU seconds of the meta-trainings, by teacher.
    """
    cells = long_cells(study)
    if not cells:
        return "", []
    truth = study.bench.accuracies(cells).numpy()
    sources = {look: real_source(study, cells, look) for look in LOOKS}
    real = {(score, look): study.scores(sources[look], score, look, cells) for score in SCORES for look in LOOKS}
    own = {
        (name, step, score): study.scores(source, score, step, cells)
        for name, source in study.teachers.items()
        for step in (look for look in LOOKS if look >= 16 and study.seeds(source, cells, look))
        for score in SCORES
    }

    def fewest(places: NDArray[np.intp]) -> dict[tuple[str, int, str], float]:
        some = truth[places]
        reached = {key: spearman(values[:, places], some) for key, values in real.items()}
        found = {}
        for key, values in own.items():
            wanted = spearman(values[:, places], some)
            found[key] = next((float(look) for look in LOOKS if reached[key[2], look] >= wanted), np.inf)
        return found

    random = np.random.default_rng(0)
    drawn = [fewest(random.integers(len(cells), size=len(cells))) for _ in range(EQUAL_RESAMPLES)]
    rows, found = [], []
    for (name, step, score), enough in fewest(np.arange(len(cells))).items():
        several = [one[name, step, score] for one in drawn]
        low, high = np.quantile(several, [0.025, 0.975], method="nearest")
        look = int(enough) if np.isfinite(enough) else LOOKS[-1]
        saved = study.seconds(sources[look], look, cells) - study.seconds(study.teachers[name], step, cells)
        values = own[name, step, score]
        one = Equal(name, step, score, spearman(values, truth), (enough, low, high), saved, seconds[name])
        found.append(one)
        more = max(look for look in LOOKS if look <= 10 * step)
        rows.append(
            [
                *(name, str(step), score, f"{one.spearman:.2f}", one.words()),
                f"{more}: {spearman(real[score, more], truth):.2f}",
                shown(_gap(values, real[score, more], truth), "+.2f"),
                *(f"{'' if np.isfinite(enough) else 'at least '}{saved:.1f}", one.pays()),
            ]
        )
    header = ["data", "steps", "score", "Spearman", "fewest real steps that reach it"]
    header += ["eight to ten times as many real steps", "difference", "CPU seconds saved a cell", "pays from cells"]
    return f"{len(cells)} cells with a longer training.\n\n" + markdown_table(header, rows), found


@dataclass(frozen=True)
class Noise:
    """What noise of the seeds does to the ranks by a score."""

    cells: int
    share: float
    """The seed's share of the variance of ranks."""
    between: float
    """Spearman's correlation between two seeds."""
    alone: float
    """Of one seed with the accuracies."""
    mean: float
    """Of the mean of two."""
    misplaced: float
    """Spearman's correlation of the number of parameters with the places that a cell is ranked too high."""

    @property
    def clean(self) -> float:
        """An estimate of what infinitely many seeds would give (Spearman, 1904), for correlations of values."""
        return self.alone / float(np.sqrt(max(self.between, 1e-9)))


def noise_table(study: Study) -> tuple[str, dict[tuple[str, str, int], Noise]]:
    """Return a table of what separates noise of seeds from bias, and its rows by data, score and steps."""
    found = {}
    for name, source in study.sources.items():
        known = study.cache.curves(source)
        for step in (look for look in LOOKS if look >= 16):
            cells = [c for c in study.reported if all(step in looks_of(known.get((c.name, seed))) for seed in (0, 1))]
            if len(cells) < MIN_CELLS:
                continue
            truth = study.bench.accuracies(cells).numpy()
            parameters = study.untrained("parameters", cells)[:, 0]
            for score in ("accuracy", "validation loss", "training loss"):
                values = rankdata(study.scores(source, score, step, cells)[:2], axis=1)
                if not values.var():  # scores that are all equal
                    continue
                found[name, score, step] = Noise(
                    len(cells),
                    float(values.var(axis=0, ddof=1).mean() / values.var(ddof=1)),
                    spearman(values[:1], values[1]),
                    spearman(values, truth),
                    spearman(values.mean(axis=0)[None], truth),
                    spearman((values.mean(axis=0) - rankdata(truth))[None], parameters),
                )
    rows = [
        [
            *(name, str(step), str(one.cells), score, f"{100 * one.share:.0f} %", f"{one.between:.2f}"),
            *(f"{one.alone:.2f}", f"{one.mean:.2f}", f"{one.clean:.2f}", f"{one.misplaced:+.2f}"),
        ]
        for (name, score, step), one in found.items()
    ]
    header = ["data", "steps", "cells", "score", "the seed's share of the variance of ranks", "between two seeds"]
    header += ["one seed", "mean of two", "without noise", "misplacement against parameters"]
    return markdown_table(header, rows), found


def settings_table(
    study: Study, sources: Mapping[str, str]
) -> tuple[str, dict[tuple[str, int], tuple[float, Quality]]]:
    """Return a table of optimizers, rates and networks, on cells of the other half.

    Returns:
        The table, and by name and steps the CPU seconds and the training loss's quality. Sources that do not have all
        cells are left out.
    """
    cells = study.bench.known[:TUNED]
    truth = study.bench.accuracies(cells).numpy()
    rows, found = [], {}
    for name, source in sources.items():
        for step in (step for step in (32, 128) if 0 in study.seeds(source, cells, step)):
            reached = {score: quality(study.scores(source, score, step, cells)[:1], truth) for score in SCORES}
            seconds = study.seconds(source, step, cells)
            found[name, step] = seconds, reached["training loss"]
            rows.append([name, str(step), f"{seconds:.1f}", *(shown(one.spearman) for one in reached.values())])
    table = markdown_table(["optimizer and networks", "steps", "CPU seconds", *SCORES], rows)
    return f"{len(cells)} cells of the other half, one seed.\n\n{table}", found
