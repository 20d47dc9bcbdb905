"""Regressions that are told the accuracies of some cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.nasbench201.bench import FULL
from benchmarks.nasbench201.study import CURVES, Array, Quality, Study, quality, shown
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.proxies.training import curve_features
from gtn_lightning.nas.spaces import Architecture

DRAWS = 5
"""Random choices of the known cells, over which a prediction's correlation is averaged."""

TOLD = (16, 32, 64, 128, CURVES)

BEST = "choices, AZ-NAS; prior"
"""The inputs of the answer's regression, chosen on cells of the other half."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a regression."""

    make: Callable[[Sequence[Architecture]], Array]
    """Returns ``[cells, inputs]``; raises KeyError where a measurement is missing."""
    prior: bool = False
    """Whether the regression starts from the rank by AZ-NAS, naswot and synflow."""
    trained: str = ""
    """Which trainings are among them."""
    measures: bool = False
    """Whether measurements without training are among them."""
    drawn: bool = True
    """Whether the picture shows it."""

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
        "AZ-NAS": Inputs(az_nas, measures=True, drawn=False),
        "choices, AZ-NAS": Inputs(together(choices, az_nas), measures=True),
        "choices, AZ-NAS, naswot, synflow": Inputs(together(choices, study.measurements), measures=True, drawn=False),
        "choices; prior": Inputs(choices, prior=True),
        "choices, AZ-NAS; prior": Inputs(together(choices, az_nas), prior=True, measures=True),
    }
    trained = {f"{step} real steps": (study.real, step) for step in (32, 128)}
    for name, source in study.plain.items():
        most = max(step for curve in study.cache.curves(source).values() for step in curve.looks)
        trained[f"{most} steps, {name}"] = source, most
    for name, (source, step) in trained.items():
        vector = curves(source, step)
        found[name] = Inputs(vector, trained=name, drawn=False)
        found[f"choices, {name}"] = Inputs(together(choices, vector), trained=name)
        both = together(choices, az_nas, vector)
        found[f"choices, AZ-NAS, {name}"] = Inputs(both, trained=name, measures=True)
        found[f"choices, AZ-NAS, {name}; prior"] = Inputs(both, prior=True, trained=name, measures=True)
    return found


def predicted(study: Study, inputs: Inputs, count: int, cells: Sequence[Architecture]) -> Array:
    """Return what regressions predict for cells that are told the accuracies of others.

    Whatever the inputs, the same cells of the other half are told.

    Args:
        study: the measurements.
        inputs: of the regressions.
        count: number of accuracies that each is told.
        cells: those that are predicted.

    Returns:
        ``[draws, cells]``.
    """
    pool = study.bench.known[:CURVES]
    truth, known, asked = study.bench.accuracies(pool).numpy(), inputs.make(pool), inputs.make(cells)
    prior = (study.prior(pool), study.prior(cells)) if inputs.prior else None
    found = []
    for draw in range(draws_of(count)):
        drawn = np.random.default_rng(draw).permutation(len(pool))[:count]
        predictor = RankPredictor(known[drawn], truth[drawn], prior[0][drawn] if prior else None)
        found.append(predictor.predict(asked, prior[1] if prior else None))
    return np.array(found)


def draws_of(count: int) -> int:
    """Return over how many random choices of the known cells a correlation is averaged."""
    return DRAWS if count < CURVES else 1


def told_table(study: Study) -> tuple[str, dict[tuple[str, int], Quality]]:
    """Return a table of regressions that are told some accuracies; of inputs that all cells have."""
    cells = [*study.bench.known[:CURVES], *study.reported]
    found: dict[tuple[str, int], Quality] = {}
    rows = []
    for name, inputs in inputs_of(study).items():
        if not all(map(inputs.measured, cells)):
            continue
        for count in TOLD:
            found[name, count] = quality(predicted(study, inputs, count, study.reported), study.truth)
        few = found[name, 64]
        row = [name, str(inputs.make(study.reported[:1]).shape[1])]
        rows.append([*row, *(shown(found[name, count].spearman) for count in TOLD), shown(few.tenth)])
        print(" | ".join(rows[-1]), flush=True)
    header = ["inputs", "numbers", *(f"told {count}, {draws_of(count)} draws" for count in TOLD)]
    return markdown_table([*header, "told 64, top tenth"], rows), found
