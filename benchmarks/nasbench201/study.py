"""The measurements of `benchmarks.nasbench201`, and how well scores rank cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from benchmarks.nasbench201.bench import FULL, Bench, Reduction
from benchmarks.nasbench201.curves import Cache, Curve
from gtn_lightning.nas.proxies.az_nas import log_position, log_rank
from gtn_lightning.nas.proxies.combined import Scale, comparable
from gtn_lightning.nas.proxies.training import mean_of_last_half
from gtn_lightning.nas.spaces import Architecture

Array = NDArray[np.float64]

RESAMPLES = 1000

MIN_CELLS = 40
"""Cells below which nothing is reported of them."""

KNOWN = 64
"""Cells of the other half that are trained: to choose scores, and for the ranking-aware teachers."""

CURVES = 256
"""Cells of the other half that regressions may be told."""

MOST = 128
"""Steps of a cell, beyond which its trainings are not called cheap."""

LEARNERS, SHORT = 4, 32
"""Learners of a cell whose short trainings are averaged, and the steps of each."""

TUNED = 48
"""Cells of the other half on which settings are compared."""

TOGETHER = ("AZ-NAS", "naswot", "synflow")
"""Measurements without training that are ranked together, chosen on cells of the other half."""

SAMPLE = 50
"""Cells of the other half, among which a cell's measurements are placed."""

SCORES: Mapping[str, Callable[[Curve, int], float]] = {
    "accuracy": lambda curve, step: curve.looks[step][0],
    "validation loss": lambda curve, step: -curve.looks[step][1],
    "training loss": lambda curve, step: -mean_of_last_half(curve.losses[:step]),
    "training loss, all steps": lambda curve, step: -float(np.mean(curve.losses[:step])),
}
"""What is made of a learning curve: two looks at validation images; the mean training loss of the last half of the
steps, and of all."""


@dataclass(frozen=True)
class Quality:
    """How well scores rank cells: means over seeds, each with the ends of a 95 % bootstrap interval over the cells."""

    spearman: tuple[float, float, float]
    kendall: float
    tenth: tuple[float, float, float]
    """Spearman over the best tenth."""
    regret: float
    """Accuracy of the best cell less that of the best of the five with the highest scores, in points."""

    def cells(self) -> list[str]:
        """Return the numbers as a table shows them."""
        return [shown(self.spearman), f"{self.kendall:.2f}", shown(self.tenth), f"{self.regret:.2f}"]


HEADER = ["Spearman", "Kendall", "Spearman, top tenth", "regret of 5"]


def shown(interval: tuple[float, float, float], form: str = ".2f") -> str:
    """Return a value with its interval."""
    return f"{interval[0]:{form}} [{interval[1]:{form}}, {interval[2]:{form}}]"


def spearman(scores: Array, truth: Array) -> float:
    """Return the mean of Spearman's correlations of several rows of scores, ``[seeds, cells]``."""
    true = rankdata(truth) - (len(truth) + 1) / 2
    ranks = rankdata(scores, axis=1) - (len(truth) + 1) / 2
    below = np.sqrt((ranks**2).sum(axis=1) * (true**2).sum())
    return float(np.mean(np.divide((ranks * true).sum(axis=1), below, out=np.zeros(len(ranks)), where=below > 0)))


def interval(statistic: Callable[[NDArray[np.intp]], float], count: int) -> tuple[float, float, float]:
    """Return a statistic of all cells, and the ends of its 95 % bootstrap interval over the cells."""
    random = np.random.default_rng(0)
    drawn = [statistic(random.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return statistic(np.arange(count)), float(low), float(high)


def quality(scores: Array, truth: Array) -> Quality:
    """Return how well scores ``[seeds, cells]`` rank cells of these accuracies."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    top = np.flatnonzero(truth >= np.sort(truth)[-max(3, len(truth) // 10)])
    return Quality(
        interval(lambda rows: spearman(scores[:, rows], truth[rows]), len(truth)),
        float(np.mean([kendalltau(row, truth).statistic for row in scores])),
        interval(lambda rows: spearman(scores[:, top[rows]], truth[top[rows]]), len(top)),
        100 * float(np.mean([truth.max() - truth[np.argsort(-row, kind="stable")[:5]].max() for row in scores])),
    )


@dataclass
class Study:
    """The measurements, and what is computed from them."""

    bench: Bench
    cache: Cache
    reduction: Reduction
    """The networks that are trained."""
    real: str
    """The source of the trainings on real images in the cache."""
    long: str
    """The same of longer trainings."""
    rates: Mapping[str, str]
    """Sources of trainings on real images at other rates, by what they are called."""
    plain: Mapping[str, str]
    """Sources of trainings on the images of teachers that know no accuracies, by what the teachers are called."""
    ranked: Mapping[str, str]
    """The same of teachers that know the accuracies of `KNOWN` cells."""
    count: int
    """Cells that are ranked, at most."""

    @property
    def teachers(self) -> Mapping[str, str]:
        """All sources of trainings on synthetic images."""
        return {**self.plain, **self.ranked}

    @property
    def untold(self) -> Mapping[str, str]:
        """All sources of trainings that know no accuracies."""
        return {"real images": self.real, **self.rates, **self.plain}

    @property
    def sources(self) -> Mapping[str, str]:
        """All sources of trainings but the longer ones."""
        return {**self.untold, **self.ranked}

    @cached_property
    def reported(self) -> list[Architecture]:
        """The cells that are ranked: as many of the first, in random order, as were measured and trained."""
        return list(takewhile(self._is_complete, self.bench.reported[: self.count]))

    @cached_property
    def compared(self) -> list[Architecture]:
        """The cells of the other half on which scores are chosen."""
        return list(takewhile(self._is_complete, self.bench.known[:KNOWN]))

    def check(self) -> None:
        """Check that there is enough to report.

        Raises:
            SystemExit: too few cells were measured or trained.
        """
        parts = "run the parts 'untrained' and 'real'"
        for what, cells in (("ranked", self.reported), ("known", self.compared)):
            if len(cells) < MIN_CELLS:
                raise SystemExit(f"{what} cells must be at least {MIN_CELLS}, got {len(cells)}: {parts}")
        measured = sum(map(self.is_measured, self.bench.known[:CURVES]))
        if measured < CURVES:
            raise SystemExit(f"known cells without training must be {CURVES}, got {measured}: run the part 'untrained'")

    def _is_complete(self, cell: Architecture) -> bool:
        return self.is_measured(cell) and (cell.name, 0) in self.cache.curves(self.real)

    @cached_property
    def truth(self) -> Array:
        """Their accuracies."""
        return self.bench.accuracies(self.reported).numpy()

    def seeds(self, source: str, cells: Sequence[Architecture], step: int) -> list[int]:
        """Return the seeds with which all of some cells were trained for a number of steps."""
        known = self.cache.curves(source)
        numbers = {seed for _, seed in known}
        return [s for s in sorted(numbers) if all(step in looks_of(known.get((c.name, s))) for c in cells)]

    def scores(
        self, source: str, score: str, step: int, cells: Sequence[Architecture] | None = None, learners: int = 1
    ) -> Array:
        """Return scores of cells, ``[seeds, cells]``; of several learners, their mean rank, ``[groups, cells]``."""
        cells = self.reported if cells is None else cells
        known = self.cache.curves(source)
        make = SCORES[score]
        rows = np.array([[make(known[c.name, s], step) for c in cells] for s in self.seeds(source, cells, step)])
        if learners == 1:
            return rows
        groups = len(rows) // learners
        ranks = rankdata(rows[: groups * learners], axis=1) if groups else np.empty((0, len(cells)))
        return ranks.reshape(groups, learners, len(cells)).mean(axis=1)

    def untrained(self, name: str, cells: Sequence[Architecture]) -> Array:
        """Return a proxy's numbers, ``[cells, numbers]``."""
        known = self.cache.untrained()
        return comparable([known[f"{name} {cell.name}"][0] for cell in cells])

    def measurements(self, cells: Sequence[Architecture], names: Sequence[str] = TOGETHER) -> Array:
        """Return the numbers of several proxies, ``[cells, numbers]``."""
        return np.hstack([self.untrained(name, cells) for name in names])

    def is_measured(self, cell: Architecture) -> bool:
        """Return whether a cell was measured without training."""
        return all(f"{name} {cell.name}" in self.cache.untrained() for name in TOGETHER)

    @cached_property
    def _scales(self) -> list[Scale]:
        """The scales of the untrained measurements, by a sample of the other half's cells."""
        sample = list(filter(self.is_measured, self.bench.known))[-SAMPLE:]
        return [Scale(column) for column in self.measurements(sample).T]

    def prior(self, cells: Sequence[Architecture]) -> Array:
        """Return what `AZNAS` with naswot and synflow scores cells that it does not compare, ``[cells]``."""
        rows = self.measurements(cells).tolist()
        return np.array([log_position(self._scales, row, 0.5 / SAMPLE) for row in rows])

    def together(self, cells: Sequence[Architecture]) -> Array:
        """Return what `AZNAS` with naswot and synflow scores cells that are compared, ``[cells]``."""
        return np.array(log_rank(self.measurements(cells)))

    def seconds(self, source: str, step: int, cells: Sequence[Architecture] | None = None) -> float:
        """Return the mean CPU seconds of a training of some cells, with one look."""
        names = {cell.name for cell in (self.reported if cells is None else cells)}
        curves = [curve for (name, _), curve in self.cache.curves(source).items() if name in names]
        return float(np.mean([curve.looks[step][2] for curve in curves if step in curve.looks]))

    def untrained_seconds(self, name: str) -> float:
        """Return the mean CPU seconds of a proxy without training."""
        return float(np.mean([s for key, (_, s) in self.cache.untrained().items() if key.startswith(f"{name} ")]))

    def twelve(self, cells: Sequence[Architecture]) -> Array:
        """Return validation accuracies after 12 epochs, from the table."""
        space = self.bench.space(FULL)
        return self.bench.twelve.accuracies(space, cells).mean(dim=1).numpy()


def looks_of(curve: Curve | None) -> Mapping[int, tuple[float, float, float]]:
    """Return the looks of a curve, none if there is no curve."""
    return {} if curve is None else curve.looks
