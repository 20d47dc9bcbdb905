"""The tables and pictures of `benchmarks.nasbench201`."""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from benchmarks.nas_reference import TABLE, load_grid_and_data
from benchmarks.nasbench201_curves import (
    FULL,
    LOOKS,
    SCORED,
    UNTRAINED,
    Bench,
    Cache,
    Curve,
    Reduction,
    append_line,
    read_lines,
)
from benchmarks.nasbench201_search import Ground, Search, at_random, evolution, guided, incumbent, tpe
from benchmarks.report import markdown_table
from gtn_lightning.nas import TableReference
from gtn_lightning.nas.proxies.az_nas import log_rank
from gtn_lightning.nas.proxies.combined import comparable
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.proxies.training import curve_features
from gtn_lightning.nas.spaces import Architecture

Array = NDArray[np.float64]

RESAMPLES = 1000
DRAWS = 5
"""Random choices of the known cells, over which a prediction's correlation is averaged."""

COSTED = 20
"""Cells whose operations are counted."""

MOST = 128
"""Steps beyond which a training is not called cheap."""

TRAINED = 64
"""Cells of the other half with learning curves, on which scores that are ranked together are chosen."""

TOLD = (16, 32, 64, 128, 256)
MIN_CELLS = 20
"""Cells below which no table is made of those with a longer training, or with two."""

BUDGET, LONG_BUDGET, SEEDS, SHOWN = 40, 300, 100, (16, 24, 32, 40)
"""Trainings of a search, and of one that costs us nothing; searches; the numbers of trainings in the table."""

WANTED = 93.9
"""The accuracy that a search is to find, in percent."""

SCORES: Mapping[str, Callable[[Curve, int], float]] = {
    "accuracy": lambda curve, step: curve.looks[step][0],
    "validation loss": lambda curve, step: -curve.looks[step][1],
    "training loss": lambda curve, step: -float(np.mean(curve.losses[step // 2 : step])),
    "area": lambda curve, step: -float(np.mean(curve.losses[:step])),
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


@dataclass(frozen=True)
class Meta:
    """What the meta-trainings of the teachers took."""

    seconds: Mapping[str, float]
    """CPU seconds."""
    steps: Mapping[str, int]


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
    reals: str
    """The source of the trainings on real images in the cache."""
    long: str
    """The same of longer trainings."""
    teachers: Mapping[str, str]
    """Names of sources of trainings on synthetic images, by what they are called."""
    count: int
    """Reported cells."""

    @cached_property
    def reported(self) -> list[Architecture]:
        """The cells that are ranked: all that were trained on real images."""
        known = self.cache.curves(self.reals)
        return [cell for cell in self.bench.reported[: self.count] if (cell.name, 0) in known]

    @cached_property
    def truth(self) -> Array:
        """Their accuracies."""
        return self.bench.accuracies(self.reported).numpy()

    def seeds(self, source: str, cells: Sequence[Architecture], step: int) -> list[int]:
        """Return the seeds with which all of some cells were trained for a number of steps."""
        known = self.cache.curves(source)
        numbers = {seed for _, seed in known}
        return [s for s in sorted(numbers) if all(step in _looks(known.get((c.name, s))) for c in cells)]

    def scores(self, source: str, score: str, step: int, cells: Sequence[Architecture] | None = None) -> Array:
        """Return scores of cells, ``[seeds, cells]``."""
        cells = self.reported if cells is None else cells
        known = self.cache.curves(source)
        make = SCORES[score]
        return np.array([[make(known[c.name, s], step) for c in cells] for s in self.seeds(source, cells, step)])

    def untrained(self, name: str, cells: Sequence[Architecture]) -> Array:
        """Return a proxy's numbers, ``[cells, numbers]``."""
        known = self.cache.untrained()
        return comparable([known[f"{name} {cell.name}"][0] for cell in cells])

    def seconds(self, source: str, step: int) -> float:
        """Return the mean CPU seconds of a training with one look."""
        curves = [curve for curve in self.cache.curves(source).values() if step in curve.looks]
        return float(np.mean([curve.looks[step][2] for curve in curves]))

    def untrained_seconds(self, name: str) -> float:
        """Return the mean CPU seconds of a proxy without training."""
        return float(np.mean([s for key, (_, s) in self.cache.untrained().items() if key.startswith(f"{name} ")]))

    def twelve(self, cells: Sequence[Architecture]) -> Array:
        """Return validation accuracies after 12 epochs, from the table."""
        space = self.bench.space(FULL)
        return self.bench.twelve.accuracies(space, cells).mean(dim=1).numpy()


def _looks(curve: Curve | None) -> Mapping[int, tuple[float, float, float]]:
    return {} if curve is None else curve.looks


def anchors(study: Study) -> tuple[str, dict[str, Quality]]:
    """Return a table of what needs no training of ours."""
    cells, truth = study.reported, study.truth
    scores = {proxy.name: study.untrained(proxy.name, cells)[:, 0] for proxy in UNTRAINED if proxy.name != "AZ-NAS"}
    scores["AZ-NAS"] = np.array(log_rank(study.untrained("AZ-NAS", cells)))
    scores["12 real epochs (the table's)"] = study.twelve(cells)
    both = [rankdata(scores[name]) for name in ("parameters", "12 real epochs (the table's)")]
    scores["mean rank of 12 epochs and parameters"] = both[0] + both[1]
    found = {name: quality(values[None], truth) for name, values in scores.items()}
    seconds = {proxy.name: f"{study.untrained_seconds(proxy.name):.2f}" for proxy in UNTRAINED}
    rows = [[name, seconds.get(name, ""), *found[name].cells()] for name in found]
    return markdown_table(["score", "CPU seconds", *HEADER], rows), found


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


def payoff(study: Study, found: Mapping[tuple[str, str, int], Quality], seconds: Mapping[str, float]) -> list[str]:
    """Return, for every teacher, its least number of steps that ranks as well as any number of real ones."""
    ranked = {key: one.spearman[0] for key, one in found.items()}
    real = {key: value for key, value in ranked.items() if key[0] == "real images" and key[2] <= MOST}
    best = max(real, key=lambda key: real[key])
    said = []
    for name, source in study.teachers.items():
        enough = [key for key, value in ranked.items() if key[0] == name and value >= real[best]]
        beside = f"the best of real images within {MOST} steps ({best[1]}, {best[2]} steps: {real[best]:.2f})"
        if not enough:
            said.append(f"{name} ranks nowhere as well as {beside}")
            continue
        least = min(enough, key=lambda key: (key[2], -ranked[key]))
        saved = study.seconds(study.reals, best[2]) - study.seconds(source, least[2])
        said.append(
            f"{name}: {least[2]} steps ({least[1]}: {ranked[least]:.2f}) rank as well as {beside}; meta-training took "
            f"{seconds[name]:.0f} CPU seconds and a cell {saved:.1f} fewer, so that it pays from "
            f"{int(np.ceil(seconds[name] / saved)) if saved > 0 else 'no number of'} cells on"
        )
    return said


def combined(study: Study) -> tuple[str, str, Quality]:
    """Return a table of scores ranked together, nothing told, and the one that ranks the other half's cells best."""
    cells = {"held out": study.reported}
    known = study.cache.curves(study.reals)
    cells["known"] = [cell for cell in study.bench.known[: max(TOLD)] if (cell.name, 0) in known][:TRAINED]
    truth = {part: study.bench.accuracies(some).numpy() for part, some in cells.items()}
    sets = {"AZ-NAS": ("AZ-NAS",), "AZ-NAS, naswot, synflow": ("AZ-NAS", "naswot", "synflow")}
    found: dict[str, tuple[float, Quality]] = {}

    def add(name: str, columns: Mapping[str, Array]) -> None:
        rows = {part: np.array([log_rank(one) for one in columns[part]]) for part in cells}
        chosen = spearman(rows["known"], truth["known"])
        found[name] = chosen, quality(rows["held out"], truth["held out"])

    for name, proxies in sets.items():
        fixed = {part: np.hstack([study.untrained(one, some) for one in proxies]) for part, some in cells.items()}
        add(name, {part: values[None] for part, values in fixed.items()})
        for data, source in {"real images": study.reals, **study.teachers}.items():
            for step in (step for step in (32, 128) if study.seeds(source, study.reported, step)):
                for score in ("validation loss", "training loss"):
                    scores = {part: study.scores(source, score, step, some) for part, some in cells.items()}
                    if not len(scores["known"]):
                        continue
                    columns = {
                        part: np.array([np.column_stack([fixed[part], one]) for one in scores[part]]) for part in cells
                    }
                    add(f"{name}, {score} after {step} steps on {data}", columns)
    table = markdown_table(
        ["ranked together", f"Spearman, {len(cells['known'])} cells of the other half", *HEADER],
        [[name, f"{chosen:.3f}", *reached.cells()] for name, (chosen, reached) in found.items()],
    )
    best = max(found, key=lambda name: found[name][0])
    return table, best, found[best][1]


def noise(study: Study) -> str:
    """Return a table of what separates noise of seeds from bias."""
    rows = []
    for name, source in {"real images": study.reals, **study.teachers}.items():
        known = study.cache.curves(source)
        for step in (look for look in LOOKS if look >= 16):
            cells = [c for c in study.reported if all(step in _looks(known.get((c.name, seed))) for seed in (0, 1))]
            if len(cells) < MIN_CELLS:
                continue
            truth = study.bench.accuracies(cells).numpy()
            parameters = study.untrained("parameters", cells)[:, 0]
            for score in ("accuracy", "validation loss", "training loss"):
                values = rankdata(study.scores(source, score, step, cells)[:2], axis=1)
                share = values.var(axis=0, ddof=1).mean() / values.var(ddof=1)
                between = spearman(values[:1], values[1])
                alone = spearman(values, truth)
                misplaced = values.mean(axis=0) - rankdata(truth)
                rows.append(
                    [
                        *(name, str(step), str(len(cells)), score, f"{100 * share:.0f} %", f"{between:.2f}"),
                        *(f"{alone:.2f}", f"{spearman(values.mean(axis=0)[None], truth):.2f}"),
                        f"{alone / np.sqrt(max(between, 1e-9)):.2f}",
                        f"{spearman(misplaced[None], parameters):+.2f}",
                    ]
                )
    header = [
        "data",
        "steps",
        "cells",
        "score",
        "the seed's share of the variance of ranks",
        "between two seeds",
        "one seed",
    ]
    header += ["mean of two", "without noise", "misplacement against parameters"]
    return markdown_table(header, rows)


def settings(study: Study, sources: Mapping[str, str]) -> str:
    """Return a table of optimizers and rates, on cells of the other half."""
    sources = {name: source for name, source in sources.items() if study.cache.curves(source)}
    cells = study.bench.known
    for source in sources.values():
        known = study.cache.curves(source)
        cells = [cell for cell in cells if (cell.name, 0) in known]
    truth = study.bench.accuracies(cells).numpy()
    rows = []
    for name, source in sources.items():
        for step in (32, 128):
            row = [name, str(step), f"{study.seconds(source, step):.1f}"]
            for score in SCORES:
                scores = study.scores(source, score, step, cells)[:1]
                row.append(shown(quality(scores, truth).spearman))
            rows.append(row)
    return f"{len(cells)} cells of the other half, one seed:\n\n" + markdown_table(
        ["optimizer", "steps", "CPU seconds", *SCORES], rows
    )


def inputs_of(study: Study) -> dict[str, Callable[[Sequence[Architecture]], Array]]:
    """Return the inputs of regressions, ``[cells, inputs]``, by name."""
    space = study.bench.space(FULL)

    def choices(cells: Sequence[Architecture]) -> Array:
        return np.array([space.encode(cell) for cell in cells])

    def untrained(cells: Sequence[Architecture]) -> Array:
        return np.hstack([study.untrained(name, cells) for name in ("AZ-NAS", "naswot", "synflow")])

    def curves(source: str, most: int) -> Callable[[Sequence[Architecture]], Array]:
        known = study.cache.curves(source)

        def made(cells: Sequence[Architecture]) -> Array:
            rows = []
            for cell in cells:
                curve = known[cell.name, 0]
                points = [step for step in curve.looks if most // 8 <= step <= most]
                rows.append(curve_features(curve.losses[:most], {step: curve.looks[step][1] for step in points}))
            return np.array(rows)

        return made

    def together(*parts: Callable[[Sequence[Architecture]], Array]) -> Callable[[Sequence[Architecture]], Array]:
        return lambda cells: np.hstack([part(cells) for part in parts])

    found = {
        "choices": choices,
        "AZ-NAS": lambda cells: study.untrained("AZ-NAS", cells),
        "choices, AZ-NAS": together(choices, lambda cells: study.untrained("AZ-NAS", cells)),
        "choices, AZ-NAS, naswot, synflow": together(choices, untrained),
    }
    trained = {f"{step} real steps": (study.reals, step) for step in (32, 128)}
    trained |= {f"32 steps, {name}": (source, 32) for name, source in study.teachers.items()}
    for name, (source, step) in trained.items():
        vector = curves(source, step)
        found[name] = vector
        found[f"choices, {name}"] = together(choices, vector)
        found[f"choices, AZ-NAS, {name}"] = together(choices, lambda c: study.untrained("AZ-NAS", c), vector)
    return found


def told(study: Study) -> tuple[str, dict[tuple[str, int], tuple[float, float, float]], dict[str, Quality]]:
    """Return a table of regressions that are told some accuracies."""
    found: dict[tuple[str, int], tuple[float, float, float]] = {}
    best: dict[str, Quality] = {}
    rows = []
    for name, make in inputs_of(study).items():
        pool, inputs = [], []
        for cell in study.bench.known[: max(TOLD)]:
            try:
                inputs.append(make([cell])[0])
                pool.append(cell)
            except KeyError:  # not measured
                continue
        try:
            shown_cells = make(study.reported)
        except KeyError:
            continue
        truth, known = study.bench.accuracies(pool).numpy(), np.array(inputs)
        row = [name, str(known.shape[1])]
        for count in TOLD:
            if count > len(pool):
                row.append("")
                continue
            draws = 1 if count == len(pool) else DRAWS
            predicted = []
            for draw in range(draws):
                rows_ = np.random.default_rng(draw).permutation(len(pool))[:count]
                predicted.append(RankPredictor(known[rows_], truth[rows_]).predict(shown_cells))
            scores = np.array(predicted)
            reached = quality(scores, study.truth)
            found[name, count] = reached.spearman
            row.append(shown(reached.spearman))
            if count == 64:
                best[name] = reached
        row += [shown(best[name].tenth), f"{best[name].regret:.2f}"] if name in best else ["", ""]
        rows.append(row)
        print(" | ".join(row), flush=True)
    header = ["inputs", "numbers", *(f"told {count}" for count in TOLD), "told 64, top tenth", "told 64, regret of 5"]
    return markdown_table(header, rows), found, best


def costs(study: Study, teachers: Meta) -> str:
    """Return a table of what a look at a cell costs, in operations and in CPU seconds."""
    cells = study.reported[:COSTED]
    small = study.bench.space(Reduction())
    full = float(np.mean([forward_flops(study.bench.space(FULL).build(cell), (3, 32, 32)) for cell in cells]))
    reduced = float(np.mean([forward_flops(small.build(cell), small.image_shape) for cell in cells]))
    looks = {
        "12 epochs of 25,000 images, the benchmark's network": (3 * 12 * 25_000 * full, ""),
        "AZ-NAS (16 images)": (2 * 16 * full, f"{study.untrained_seconds('AZ-NAS'):.2f}"),
        "naswot (32 images)": (32 * full, f"{study.untrained_seconds('naswot'):.2f}"),
    }
    for step in (32, 128):
        operations = (3 * 64 * step + SCORED) * reduced
        looks[f"{step} steps on real images, reduced network"] = operations, f"{study.seconds(study.reals, step):.1f}"
    rows = [[name, f"{operations / 1e9:.0f}", seconds] for name, (operations, seconds) in looks.items()]
    for name, seconds in teachers.seconds.items():
        rows.append([f"meta-training of {name}, {teachers.steps[name]} meta-steps, once", "", f"{seconds:.0f}"])
    return markdown_table(["look", "10^9 operations", "CPU seconds"], rows)


def plans(study: Study) -> dict[str, tuple[Search, Ground, int]]:
    """Return the searches, what they search, and their numbers of trainings."""
    cells = [*study.bench.reported, *study.bench.known]
    space = study.bench.space(FULL)

    def ground(some: Sequence[Architecture], *proxies: str) -> Ground:
        encoded = np.array([space.encode(cell) for cell in some])
        inputs = np.hstack([encoded, *(study.untrained(name, some) for name in proxies)])
        return Ground(space, some, study.twelve(some), study.bench.accuracies(some).numpy(), inputs)

    measured = [cell for cell in cells if f"AZ-NAS {cell.name}" in study.cache.untrained()]
    return {
        "random": (at_random, ground(cells), LONG_BUDGET),
        "regularized evolution": (evolution, ground(cells), LONG_BUDGET),
        "TPE": (tpe, ground(cells), BUDGET),
        "regression on the choices": (guided, ground(cells), BUDGET),
        "random, measured cells": (at_random, ground(measured), LONG_BUDGET),
        "regression on the choices, measured cells": (guided, ground(measured), BUDGET),
        "regression on choices and AZ-NAS, measured cells": (guided, ground(measured, "AZ-NAS"), BUDGET),
    }


def run_searches(study: Study, file: Path, until: float) -> None:
    """Run the searches that are not in a file, and add them to it."""
    known = {(row["search"], row["cells"], row["budget"], row["seed"]) for row in read_lines(file)}
    for name, (search, ground, budget) in plans(study).items():
        for seed in range(SEEDS):
            if (name, len(ground.cells), budget, seed) in known:
                continue
            if time.monotonic() > until:
                return
            found = incumbent(search, ground, budget, seed)
            key = {"search": name, "cells": len(ground.cells), "budget": budget, "seed": seed}
            append_line(file, {**key, "found": np.round(found, 4).tolist()})


def searches(study: Study, file: Path) -> tuple[str, dict[str, Array]]:
    """Return a table of the searches in a file, and the accuracies of their best cells, ``[seeds, trainings]``."""
    rows = list(read_lines(file))
    found: dict[str, Array] = {}
    table = []
    for name, (_, ground, budget) in plans(study).items():
        own = [r for r in rows if (r["search"], r["cells"], r["budget"]) == (name, len(ground.cells), budget)]
        if not own:
            continue
        found[name] = np.array([row["found"] for row in own])
        mean = found[name].mean(axis=0)
        reached = np.flatnonzero(mean >= WANTED)
        ends = [f"{mean[place - 1]:.2f} ± {found[name][:, place - 1].std(ddof=1):.2f}" for place in SHOWN]
        share = f"{100 * np.mean(found[name][:, BUDGET - 1] >= WANTED):.0f} %"
        first = str(int(reached[0]) + 1) if len(reached) else f"not in {budget}"
        best = f"{100 * ground.true.max():.2f}"
        table.append([name, str(len(own)), str(len(ground.cells)), best, *ends, first, share])
    header = ["search", "seeds", "cells", "best cell", *(f"after {place}" for place in SHOWN)]
    header += [f"trainings until the mean is {WANTED}", f"seeds above {WANTED} after {BUDGET}"]
    return markdown_table(header, table), found


def longer(study: Study) -> str:
    """Return a table of longer trainings on real images, over the cells that have one; empty if there are too few."""
    known = study.cache.curves(study.long)
    cells = [cell for cell in study.reported if (cell.name, 0) in known]
    if len(cells) < MIN_CELLS:
        return ""
    truth = study.bench.accuracies(cells).numpy()
    rows = []
    for step in (look for look in LOOKS if look >= 16 and study.seeds(study.long, cells, look)):
        row = [str(step), f"{study.seconds(study.long, step):.1f}"]
        row += [shown(quality(study.scores(study.long, score, step, cells), truth).spearman) for score in SCORES]
        rows.append(row)
    fixed = {"AZ-NAS": np.array(log_rank(study.untrained("AZ-NAS", cells))), "12 epochs": study.twelve(cells)}
    beside = ", ".join(f"{name} {shown(quality(values[None], truth).spearman)}" for name, values in fixed.items())
    table = markdown_table(["steps", "CPU seconds", *SCORES], rows)
    return f"Longer trainings of {len(cells)} of the cells, one seed; on these cells {beside}:\n\n{table}"


def grid(path: str) -> str:
    """Return a table of the same scores on the ConvNet grid on MNIST, whose accuracies are in the repository."""
    space, data = load_grid_and_data(path)
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    networks: dict[str, list[Architecture]] = {
        part: [space.parse(name) for name in dict.fromkeys(row["architecture"] for row in rows if row["part"] == part)]
        for part in ("ranked", "known")
    }
    table = TableReference(str(TABLE))
    truth, known = (table.accuracies(space, some).mean(dim=1).numpy() for some in networks.values())
    scorers = [proxy.bind(space, data) for proxy in UNTRAINED]
    vectors = {
        part: {scorer.name: comparable([scorer.features(one).values for one in some]) for scorer in scorers}
        for part, some in networks.items()
    }
    found = {name: values[:, 0] for name, values in vectors["ranked"].items() if name != "AZ-NAS"}
    found["AZ-NAS"] = np.array(log_rank(vectors["ranked"]["AZ-NAS"]))
    encoded = {part: np.array([space.encode(one) for one in some]) for part, some in networks.items()}
    both = {part: np.hstack([encoded[part], vectors[part]["AZ-NAS"]]) for part in networks}
    for name, inputs in (("choices", encoded), ("choices, AZ-NAS", both)):
        predictor = RankPredictor(inputs["known"], known)
        found[f"{name}, told {len(known)}"] = np.array(predictor.predict(inputs["ranked"]))
    return markdown_table(
        ["score", *HEADER], [[name, *quality(values[None], truth).cells()] for name, values in found.items()]
    )
