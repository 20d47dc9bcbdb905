"""How well cells are ranked by measurements without training, by scores ranked together, and by regressions."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.nas_reference import TABLE, load_grid_and_data
from benchmarks.nasbench201.bench import FULL
from benchmarks.nasbench201.curves import UNTRAINED
from benchmarks.nasbench201.study import HEADER, TOGETHER, Array, Quality, Study, interval, quality, shown, spearman
from benchmarks.report import markdown_table
from gtn_lightning.nas import TableReference
from gtn_lightning.nas.proxies.az_nas import log_rank
from gtn_lightning.nas.proxies.combined import comparable
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.proxies.training import curve_features
from gtn_lightning.nas.spaces import Architecture

DRAWS = 5
"""Random choices of the known cells, over which a prediction's correlation is averaged."""

TRAINED = 64
"""Cells of the other half with learning curves, on which scores that are ranked together are chosen."""

TOLD = (16, 32, 64, 128, 256)

BEST = "choices, AZ-NAS; prior"
"""The inputs of the answer's regression: the cheapest that hold all, whatever ranks best here."""


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


def best_tenth(study: Study) -> str:
    """Return a table of Spearman's correlations within the best tenth of all cells of the reported half."""
    cells = [cell for cell in study.bench.reported if f"AZ-NAS {cell.name}" in study.cache.untrained()]
    truth = study.bench.accuracies(cells).numpy()
    scores = {name: study.untrained(name, cells)[:, 0] for name in ("parameters", "synflow", "naswot")}
    scores["AZ-NAS"] = np.array(log_rank(study.untrained("AZ-NAS", cells)))
    scores["AZ-NAS, naswot, synflow"] = study.together(cells)
    scores["12 real epochs (the table's)"] = study.twelve(cells)
    rows = []
    for name, values in scores.items():
        reached = quality(values[None], truth)
        rows.append([name, str(len(cells)), shown(reached.spearman), shown(reached.tenth), f"{reached.regret:.2f}"])
    for name in ("choices, AZ-NAS", BEST):
        for count in (64, 256):
            reached = quality(predicted(study, inputs_of(study)[name], count, cells), truth)
            label = f"told {count}: {name}"
            rows.append(
                [label, str(len(cells)), shown(reached.spearman), shown(reached.tenth), f"{reached.regret:.2f}"]
            )
    both = [cell for cell in cells if cell.name in study.bench.twins]
    twins = study.bench.accuracies([study.bench.twins[cell.name] for cell in both]).numpy()
    reached = quality(twins[None], study.bench.accuracies(both).numpy())
    name = "200 epochs of the same network, other seeds"
    rows.append([name, str(len(both)), shown(reached.spearman), shown(reached.tenth), f"{reached.regret:.2f}"])
    top = [cell for _, cell in sorted(zip(-truth, cells, strict=True), key=lambda pair: pair[0])][: len(cells) // 10]
    accuracies = study.bench.accuracies(top).numpy()
    for name, source in {"real images": study.reals, **study.teachers}.items():
        for step in sorted({look for curve in study.cache.curves(source).values() for look in curve.looks}):
            if step < 32 or not study.seeds(source, top, step):
                continue
            for score in ("validation loss", "training loss"):
                best = study.scores(source, score, step, top)

                def within(places: NDArray[np.intp], best: Array = best) -> float:
                    return spearman(best[:, places], accuracies[places])

                rows.append([f"{score}, {step} steps, {name}", "", "", shown(interval(within, len(top))), ""])
    return markdown_table(["score", "cells", "Spearman", "Spearman, top tenth", "regret of 5"], rows)


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


@dataclass(frozen=True)
class Inputs:
    """The inputs of a regression."""

    make: Callable[[Sequence[Architecture]], Array]
    """Returns ``[cells, inputs]``; raises KeyError where a measurement is missing."""
    prior: bool = False
    """Whether the regression starts from the rank by AZ-NAS, naswot and synflow."""

    def measured(self, cell: Architecture) -> bool:
        """Return whether all inputs of a cell are there."""
        try:
            self.make([cell])
        except KeyError:
            return False
        return True


def inputs_of(study: Study) -> dict[str, Inputs]:
    """Return the inputs of regressions by name."""
    space = study.bench.space(FULL)

    def choices(cells: Sequence[Architecture]) -> Array:
        return np.array([space.encode(cell) for cell in cells])

    def untrained(cells: Sequence[Architecture]) -> Array:
        return np.hstack([study.untrained(name, cells) for name in TOGETHER])

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

    def az_nas(cells: Sequence[Architecture]) -> Array:
        return study.untrained("AZ-NAS", cells)

    found = {
        "choices": Inputs(choices),
        "AZ-NAS": Inputs(az_nas),
        "choices, AZ-NAS": Inputs(together(choices, az_nas)),
        "choices, AZ-NAS, naswot, synflow": Inputs(together(choices, untrained)),
        "choices; prior": Inputs(choices, prior=True),
        "choices, AZ-NAS; prior": Inputs(together(choices, az_nas), prior=True),
    }
    trained = {f"{step} real steps": (study.reals, step) for step in (32, 128)}
    for name, source in study.teachers.items():
        if name.endswith("1"):  # one of each kind
            most = max(step for curve in study.cache.curves(source).values() for step in curve.looks)
            trained[f"{most} steps, {name}"] = source, most
    for name, (source, step) in trained.items():
        vector = curves(source, step)
        found[name] = Inputs(vector)
        found[f"choices, {name}"] = Inputs(together(choices, vector))
        found[f"choices, AZ-NAS, {name}"] = Inputs(together(choices, az_nas, vector))
        found[f"choices, AZ-NAS, {name}; prior"] = Inputs(together(choices, az_nas, vector), prior=True)
    return found


def predicted(study: Study, inputs: Inputs, count: int, cells: Sequence[Architecture]) -> Array:
    """Return what regressions predict for cells that are told the accuracies of others.

    Args:
        study: the measurements.
        inputs: of the regressions.
        count: number of accuracies that each is told; of random cells of the other half.
        cells: those that are predicted.

    Returns:
        ``[draws, cells]``, without rows if a measurement is missing.
    """
    pool = [cell for cell in study.bench.known[: max(TOLD)] if inputs.measured(cell)]
    if count > len(pool) or not all(map(inputs.measured, cells)):
        return np.empty((0, len(cells)))
    truth, known, asked = study.bench.accuracies(pool).numpy(), inputs.make(pool), inputs.make(cells)
    prior = (study.prior(pool), study.prior(cells)) if inputs.prior else None
    found = []
    for draw in range(1 if count == len(pool) else DRAWS):
        told = np.random.default_rng(draw).permutation(len(pool))[:count]
        predictor = RankPredictor(known[told], truth[told], prior[0][told] if prior else None)
        found.append(predictor.predict(asked, prior[1] if prior else None))
    return np.array(found)


def told(study: Study) -> tuple[str, dict[tuple[str, int], Quality]]:
    """Return a table of regressions that are told some accuracies."""
    found: dict[tuple[str, int], Quality] = {}
    rows = []
    for name, inputs in inputs_of(study).items():
        if not all(map(inputs.measured, study.reported)):
            continue
        row = [name, str(inputs.make(study.reported[:1]).shape[1])]
        for count in TOLD:
            scores = predicted(study, inputs, count, study.reported)
            if len(scores):
                found[name, count] = quality(scores, study.truth)
            row.append(shown(found[name, count].spearman) if len(scores) else "")
        reached = found.get((name, 64))
        rows.append([*row, *([shown(reached.tenth), f"{reached.regret:.2f}"] if reached else ["", ""])])
        print(" | ".join(rows[-1]), flush=True)
    header = ["inputs", "numbers", *(f"told {count}" for count in TOLD), "told 64, top tenth", "told 64, regret of 5"]
    return markdown_table(header, rows), found


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
