"""What trainings of few steps say about a cell, on real and on synthetic images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.nasbench201.curves import LOOKS
from benchmarks.nasbench201.study import SCORES, Array, Quality, Study, interval, looks_of, quality, shown, spearman
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.az_nas import log_rank
from gtn_lightning.nas.spaces import Architecture

MIN_CELLS = 20
"""Cells below which no table is made of those with a longer training, or with two."""


def steps(study: Study) -> tuple[str, dict[tuple[str, str, int], Quality]]:
    """Return a table of what steps on real and on synthetic data say, by score and number of steps."""
    found: dict[tuple[str, str, int], Quality] = {}
    rows = []
    for name, source in {"real images": study.reals, **study.teachers}.items():
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


def paired(study: Study) -> str:
    """Return a table of synthetic steps beside as many real ones and four times as many, over the same cells."""
    rows = []
    for name, source in study.teachers.items():
        for step in (look for look in LOOKS if look >= 8 and study.seeds(source, study.reported, look)):
            for score in ("validation loss", "training loss"):
                own = study.scores(source, score, step)
                row = [name, str(step), score, f"{spearman(own, study.truth):.2f}"]
                for times in (1, 4):
                    other = study.scores(study.reals, score, times * step)

                    def gap(places: NDArray[np.intp], own: Array = own, other: Array = other) -> float:
                        truth = study.truth[places]
                        return spearman(own[:, places], truth) - spearman(other[:, places], truth)

                    row.append(shown(interval(gap, len(study.truth)), "+.2f") if len(other) else "")
                rows.append(row)
    header = ["data", "steps", "score", "Spearman", "less as many real steps", "less four times as many"]
    return markdown_table(header, rows)


def _long_cells(study: Study) -> list[Architecture]:
    """Return the reported cells with a longer training."""
    known = study.cache.curves(study.long)
    return [cell for cell in study.reported if LOOKS[-1] in looks_of(known.get((cell.name, 0)))]


def _real_sources(study: Study, cells: Sequence[Architecture]) -> dict[int, str]:
    """Return the source of scores on real images by steps: the shorter trainings, of more seeds, or the longer."""
    return {look: study.reals if study.seeds(study.reals, cells, look) else study.long for look in LOOKS}


def longer(study: Study) -> tuple[str, dict[tuple[str, str, int], Quality]]:
    """Return a table of trainings on real images over the cells that have a longer one; nothing if these are too few.

    Returns:
        The table, and by data, score and steps the quality of real and synthetic steps on these cells.
    """
    cells = _long_cells(study)
    if len(cells) < MIN_CELLS:
        return "", {}
    truth = study.bench.accuracies(cells).numpy()
    real = _real_sources(study, cells)
    rows, found = [], {}
    for step in (look for look in LOOKS if look >= 16):
        for score in SCORES:
            found["real images", score, step] = quality(study.scores(real[step], score, step, cells), truth)
        seeds, seconds = len(study.seeds(real[step], cells, step)), study.seconds(real[step], step)
        row = [str(step), str(seeds), f"{seconds:.1f}"]
        rows.append([*row, *(shown(found["real images", score, step].spearman) for score in SCORES)])
    for name, source in study.teachers.items():
        for step in (look for look in LOOKS if look >= 16 and study.seeds(source, cells, look)):
            for score in SCORES:
                found[name, score, step] = quality(study.scores(source, score, step, cells), truth)
    fixed = {"AZ-NAS": np.array(log_rank(study.untrained("AZ-NAS", cells))), "12 epochs": study.twelve(cells)}
    beside = ", ".join(f"{name} {shown(quality(values[None], truth).spearman)}" for name, values in fixed.items())
    table = markdown_table(["real steps", "seeds", "CPU seconds", *SCORES], rows)
    return f"{len(cells)} cells with a longer training; on them {beside}.\n\n{table}", found


@dataclass(frozen=True)
class Equal:
    """How many steps on real images rank as well as some on a teacher's."""

    teacher: str
    steps: int
    score: str
    spearman: float
    real: int | None
    """The fewest steps on real images that reach it by the same score; None if none of `LOOKS` does."""
    saved: float
    """CPU seconds saved a cell; at least so many if ``real`` is None."""
    cells: int | None
    """The number of cells from which on the meta-training pays; None if a cell's training does not become cheaper."""

    def words(self) -> str:
        """Return the number of real steps as a table shows it."""
        return str(self.real) if self.real else f"more than {LOOKS[-1]}"


def equal(study: Study, seconds: Mapping[str, float]) -> tuple[str, list[Equal]]:
    """Return a table of how many real steps rank as well as a teacher's, and its rows.

    The cells are those with a longer training. Up to the steps of the shorter trainings, real steps count by these,
    whose seeds are more.

    Args:
        study: the measurements.
        seconds: CPU seconds of the meta-trainings, by teacher.
    """
    cells = _long_cells(study)
    if len(cells) < MIN_CELLS:
        return "", []
    truth = study.bench.accuracies(cells).numpy()
    sources = _real_sources(study, cells)
    real = {(score, look): study.scores(sources[look], score, look, cells) for score in SCORES for look in LOOKS}
    rows, found = [], []
    for name, source in study.teachers.items():
        for step in (look for look in LOOKS if look >= 16 and study.seeds(source, cells, look)):
            more = max(look for look in LOOKS if look <= 10 * step)
            for score in SCORES:
                own = study.scores(source, score, step, cells)
                reached = spearman(own, truth)
                enough = next((look for look in LOOKS if spearman(real[score, look], truth) >= reached), None)
                saved = study.seconds(sources[enough or LOOKS[-1]], enough or LOOKS[-1]) - study.seconds(source, step)
                pays = int(np.ceil(seconds[name] / saved)) if saved > 0 else None
                found.append(Equal(name, step, score, reached, enough, saved, pays))

                def gap(places: NDArray[np.intp], own: Array = own, other: Array = real[score, more]) -> float:
                    return spearman(own[:, places], truth[places]) - spearman(other[:, places], truth[places])

                rows.append(
                    [
                        *(name, str(step), score, f"{reached:.2f}", found[-1].words()),
                        f"{more}: {spearman(real[score, more], truth):.2f}",
                        *(shown(interval(gap, len(cells)), "+.2f"), f"{saved:.1f}", str(pays) if pays else "none"),
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
        """What infinitely many seeds would give (Spearman, 1904)."""
        return self.alone / float(np.sqrt(max(self.between, 1e-9)))


def noise(study: Study) -> tuple[str, dict[tuple[str, str, int], Noise]]:
    """Return a table of what separates noise of seeds from bias, and its rows by data, score and steps."""
    found = {}
    for name, source in {"real images": study.reals, **study.teachers}.items():
        known = study.cache.curves(source)
        for step in (look for look in LOOKS if look >= 16):
            cells = [c for c in study.reported if all(step in looks_of(known.get((c.name, seed))) for seed in (0, 1))]
            if len(cells) < MIN_CELLS:
                continue
            truth = study.bench.accuracies(cells).numpy()
            parameters = study.untrained("parameters", cells)[:, 0]
            for score in ("accuracy", "validation loss", "training loss"):
                values = rankdata(study.scores(source, score, step, cells)[:2], axis=1)
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


def settings(study: Study, sources: Mapping[str, str]) -> tuple[str, dict[tuple[str, int], tuple[float, Quality]]]:
    """Return a table of optimizers, rates and reductions, and by name and steps the CPU seconds and the training loss's
    quality, on cells of the other half.
    """
    sources = {name: source for name, source in sources.items() if study.cache.curves(source)}
    cells = study.bench.known
    for source in sources.values():
        known = study.cache.curves(source)
        cells = [cell for cell in cells if (cell.name, 0) in known]
    truth = study.bench.accuracies(cells).numpy()
    rows = []
    found = {}
    for name, source in sources.items():
        for step in (32, 128):
            reached = {score: quality(study.scores(source, score, step, cells)[:1], truth) for score in SCORES}
            found[name, step] = study.seconds(source, step), reached["training loss"]
            row = [name, str(step), f"{study.seconds(source, step):.1f}"]
            rows.append([*row, *(shown(one.spearman) for one in reached.values())])
    table = markdown_table(["optimizer and networks", "steps", "CPU seconds", *SCORES], rows)
    return f"{len(cells)} cells of the other half, one seed.\n\n{table}", found
