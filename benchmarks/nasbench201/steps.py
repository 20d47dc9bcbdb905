"""What trainings of few steps say about a cell, on real and on synthetic images."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.nasbench201.curves import LOOKS
from benchmarks.nasbench201.study import SCORES, Array, Quality, Study, interval, looks_of, quality, shown, spearman
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.az_nas import log_rank

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


def equal(study: Study) -> str:
    """Return a table of how many real steps rank as well as a teacher's, over the cells with a longer training."""
    known = study.cache.curves(study.long)
    cells = [cell for cell in study.reported if LOOKS[-1] in looks_of(known.get((cell.name, 0)))]
    if len(cells) < MIN_CELLS:
        return ""
    truth = study.bench.accuracies(cells).numpy()
    real = {(score, look): study.scores(study.long, score, look, cells)[:1] for score in SCORES for look in LOOKS}
    rows = []
    for name, source in study.teachers.items():
        for step in (look for look in LOOKS if look >= 16 and study.seeds(source, cells, look)):
            more = max(look for look in LOOKS if look <= 10 * step)
            for score in SCORES:
                own = study.scores(source, score, step, cells)
                reached = spearman(own, truth)
                enough = [look for look in LOOKS if spearman(real[score, look], truth) >= reached]

                def gap(places: NDArray[np.intp], own: Array = own, other: Array = real[score, more]) -> float:
                    return spearman(own[:, places], truth[places]) - spearman(other[:, places], truth[places])

                rows.append(
                    [
                        *(name, str(step), score, f"{reached:.2f}"),
                        str(enough[0]) if enough else f"more than {LOOKS[-1]}",
                        f"{more}: {spearman(real[score, more], truth):.2f}",
                        shown(interval(gap, len(cells)), "+.2f"),
                    ]
                )
    header = ["data", "steps", "score", "Spearman", "fewest real steps that reach it"]
    header += ["eight to ten times as many real steps", "difference"]
    return (
        f"How many real steps rank as well, by the same score, over the {len(cells)} cells with a longer training:\n\n"
        + markdown_table(header, rows)
    )


def noise(study: Study) -> str:
    """Return a table of what separates noise of seeds from bias."""
    rows = []
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
    """Return a table of optimizers, rates and reductions, on cells of the other half."""
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
        ["optimizer and networks", "steps", "CPU seconds", *SCORES], rows
    )
