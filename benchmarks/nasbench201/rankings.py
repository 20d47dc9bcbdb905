"""How well cells are ranked by measurements without training, alone and ranked together with steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.nasbench201.curves import UNTRAINED
from benchmarks.nasbench201.study import (
    HEADER,
    LEARNERS,
    MOST,
    SCORES,
    SHORT,
    TOGETHER,
    Array,
    Quality,
    Study,
    interval,
    quality,
    shown,
    spearman,
)
from benchmarks.nasbench201.told import BEST, TOLD, inputs_of, predicted
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.az_nas import log_rank
from gtn_lightning.nas.spaces import Architecture

TWELVE_EPOCHS = "12 real epochs (the table's)"
ALL_TOGETHER = ", ".join(TOGETHER)


def fixed_scores(study: Study, cells: Sequence[Architecture]) -> dict[str, Array]:
    """Return by name the scores of cells that need no training of ours, ``[cells]``."""
    scores = {proxy.name: study.untrained(proxy.name, cells)[:, 0] for proxy in UNTRAINED if proxy.name != "AZ-NAS"}
    scores["AZ-NAS"] = np.array(log_rank(study.untrained("AZ-NAS", cells)))
    scores[ALL_TOGETHER] = study.together(cells)
    scores[TWELVE_EPOCHS] = study.twelve(cells)
    scores["mean rank of 12 epochs and parameters"] = rankdata(scores[TWELVE_EPOCHS]) + rankdata(scores["parameters"])
    return scores


def fixed_qualities(study: Study, cells: Sequence[Architecture]) -> dict[str, Quality]:
    """Return by name how well the scores that need no training of ours rank some cells."""
    truth = study.bench.accuracies(cells).numpy()
    return {name: quality(values[None], truth) for name, values in fixed_scores(study, cells).items()}


def fixed_table(study: Study, found: Mapping[str, Quality]) -> str:
    """Return a table of the scores that need no training of ours."""
    seconds = {proxy.name: study.untrained_seconds(proxy.name) for proxy in UNTRAINED}
    seconds[ALL_TOGETHER] = sum(seconds[name] for name in TOGETHER)
    rows = [[name, f"{seconds[name]:.2f}" if name in seconds else "", *found[name].cells()] for name in found]
    return markdown_table(["score", "CPU seconds", *HEADER], rows)


def tenth_table(study: Study) -> str:
    """Return a table of all cells of the reported half that were measured, and of the best tenth among them."""
    cells = list(filter(study.is_measured, study.bench.reported))
    truth = study.bench.accuracies(cells).numpy()
    scores = {name: values[None] for name, values in fixed_scores(study, cells).items()}
    inputs = inputs_of(study)
    for name in ("choices, AZ-NAS", BEST):
        for count in (64, TOLD[-1]):
            scores[f"{name}; told {count}"] = predicted(study, inputs[name], count, cells)
    found = {name: quality(values, truth) for name, values in scores.items()}
    rows = [
        [name, str(len(cells)), shown(one.spearman), str(len(cells) // 10), shown(one.tenth), f"{one.regret:.2f}"]
        for name, one in found.items()
    ]
    best = study.bench.best_tenth
    accuracies = study.bench.accuracies(best).numpy()
    for name, source in study.untold.items():
        for step, learners in ((SHORT, 1), (SHORT, LEARNERS), (MOST, 1)):
            for score in SCORES:
                values = study.scores(source, score, step, best, learners)
                if not len(values):
                    continue

                def within(places: NDArray[np.intp], values: Array = values) -> float:
                    return spearman(values[:, places], accuracies[places])

                tenth = shown(interval(within, len(best)))
                rows.append([f"{score}, {learners} times {step} steps, {name}", "", "", str(len(best)), tenth, ""])
    return markdown_table(["score", "cells", "Spearman", "best tenth", "Spearman in it", "regret of 5"], rows)


def twins_table(study: Study) -> str:
    """Return a table over the cells of which the table has an isomorphic one, trained with other seeds."""
    cells = [c for c in filter(study.is_measured, study.bench.reported) if c.name in study.bench.twins]
    truth = study.bench.accuracies(cells).numpy()
    twins = quality(study.bench.accuracies([study.bench.twins[c.name] for c in cells]).numpy()[None], truth)

    def root(values: tuple[float, float, float]) -> str:
        value, low, high = (float(np.sqrt(max(0.0, one))) for one in values)
        return shown((value, low, high))

    rows = [
        ["the isomorphic cell, other seeds", shown(twins.spearman), shown(twins.tenth)],
        ["the root of that", root(twins.spearman), root(twins.tenth)],
    ]
    rows += [[name, shown(one.spearman), shown(one.tenth)] for name, one in fixed_qualities(study, cells).items()]
    table = markdown_table(["score", "Spearman", f"Spearman in the best tenth, {len(cells) // 10} cells"], rows)
    return f"{len(cells)} cells.\n\n{table}"


@dataclass(frozen=True)
class Together:
    """Scores that are ranked together."""

    name: str
    chosen: float
    """Spearman on cells of the other half."""
    reached: Quality
    seconds: float
    """CPU seconds a cell, without those of a meta-training."""


def together_table(study: Study) -> tuple[str, Together]:
    """Return a table of scores ranked together, nothing told, and the one that ranks the other half's cells best."""
    cells = {"held out": study.reported, "known": study.compared}
    truth = {part: study.bench.accuracies(some).numpy() for part, some in cells.items()}
    found: list[Together] = []

    def add(name: str, columns: Mapping[str, Array], seconds: float) -> None:
        rows = {part: np.array([log_rank(one) for one in columns[part]]) for part in cells}
        chosen = spearman(rows["known"], truth["known"])
        found.append(Together(name, chosen, quality(rows["held out"], truth["held out"]), seconds))

    for proxies in (("AZ-NAS",), TOGETHER):
        fixed = {part: study.measurements(some, proxies) for part, some in cells.items()}
        seconds = sum(study.untrained_seconds(one) for one in proxies)
        add(", ".join(proxies), {part: values[None] for part, values in fixed.items()}, seconds)
        for data, source in study.untold.items():
            for step, learners in ((SHORT, 1), (SHORT, LEARNERS), (MOST, 1)):
                for score in ("validation loss", "training loss", "training loss, all steps"):
                    scores = {part: study.scores(source, score, step, some, learners) for part, some in cells.items()}
                    if not all(map(len, scores.values())):
                        continue
                    columns = {
                        part: np.array([np.column_stack([fixed[part], one]) for one in scores[part]]) for part in cells
                    }
                    each = f" of each of {learners} learners" if learners > 1 else ""
                    name = f"{', '.join(proxies)}, {score} after {step} steps{each} on {data}"
                    add(name, columns, seconds + learners * study.seconds(source, step))
    table = markdown_table(
        ["ranked together", f"Spearman, {len(study.compared)} cells of the other half", "CPU seconds", *HEADER],
        [[one.name, f"{one.chosen:.3f}", f"{one.seconds:.1f}", *one.reached.cells()] for one in found],
    )
    return table, max(found, key=lambda one: one.chosen)
