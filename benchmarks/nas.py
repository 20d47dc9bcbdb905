"""How well, and at what cost, proxies rank networks of the ConvNet grid on MNIST.

The networks are those of `benchmarks/nas_reference.csv` (made by `benchmarks.nas_reference`), all of them held out
of meta-training, and others of known accuracy. Measurements are cached, so the command can be stopped and continued,
and `--only` lets several processes share the work.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nas_reference import TABLE, load_grid_and_data
from benchmarks.nas_report import RANKED, REAL_STEPS, SUBSET_STEPS, SYNTHETIC_STEPS, Evidence, Scores, report
from gtn_lightning.inner_loop import Adam
from gtn_lightning.nas import NASWOT, FLOPs, GTNProxy, NumParameters, RealDataProxy, SynFlow, TableReference
from gtn_lightning.nas.proxies import Scorer
from gtn_lightning.nas.proxies.training import TaughtProxy, TaughtScorer
from gtn_lightning.nas.spaces import Architecture

RATES = (0.0025, 0.005, 0.01)
"""Adam's inner learning rates, for proxies that choose a rate per family or network."""


def main() -> None:
    """Measure what is not cached, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST on the hub or in a local folder")
    parser.add_argument("--teacher", default="runs/nas_mnist", help="teacher file of nas_mnist, or a folder of runs")
    parser.add_argument("--ranked-teacher", default="runs/nas_mnist_ranked", help="the same of nas_mnist_ranked")
    parser.add_argument("--cache", type=Path, default=Path("runs/nas/courses"), help="folder of the learning curves")
    parser.add_argument("--rate", type=float, default=0.005, help="Adam's rate on real data: as the teachers'")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of every network, with seeds from zero")
    parser.add_argument("--only", nargs="+", help="measure these proxies and write no report")
    options = parser.parse_args()
    space, data = load_grid_and_data(options.data)
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {
        part: [space.parse(name) for name in dict.fromkeys(row["architecture"] for row in rows if row["part"] == part)]
        for part in ("ranked", "known")
    }
    teacher, ranked = options.teacher, options.ranked_teacher
    # A proxy, the steps after which its networks are scored with the first seed, and with the others.
    taught: dict[str, tuple[Callable[[], TaughtProxy], Sequence[int], Sequence[int]]] = {
        "GTN": (lambda: GTNProxy(teacher), SYNTHETIC_STEPS, SYNTHETIC_STEPS),
        RANKED: (lambda: GTNProxy(ranked), SYNTHETIC_STEPS, SYNTHETIC_STEPS),
        "GTN, rate per family": (lambda: GTNProxy(teacher, rates=RATES, tune="family"), SYNTHETIC_STEPS[-1:], ()),
        "GTN, rate per network": (lambda: GTNProxy(teacher, rates=RATES), SYNTHETIC_STEPS[-1:], ()),
        "untrained teacher": (lambda: GTNProxy(teacher, untrained=True), SYNTHETIC_STEPS, ()),
        "real data": (lambda: real(options.rate), REAL_STEPS, REAL_STEPS[:-1]),
        "2048 real images": (lambda: real(options.rate, 2048), SUBSET_STEPS, ()),
    }
    scores: list[Scores] = []
    for name, (make, *steps) in taught.items():
        if options.only is None or name in options.only:
            scorer = make().bind(space, data)
            assert isinstance(scorer, TaughtScorer)
            for seed in range(options.seeds):
                points = steps[min(seed, 1)]
                if points:
                    scores += curves(name, scorer, [*names["ranked"], *names["known"]], points, seed, options.cache)
    if options.only is not None:
        return
    for untaught in (NumParameters(), FLOPs(), SynFlow(), NASWOT()):
        scores.append(without_training(untaught.bind(space, data), [*names["ranked"], *names["known"]]))
    table = TableReference(str(TABLE))
    paid = table.seconds(space, names["known"])
    made = {name: taught[name][0]().bind(space, data).overhead().seconds for name in ("GTN", RANKED)}
    accuracies = table.accuracies(space, names["ranked"]), table.accuracies(space, names["known"])[:, 0]
    report(Evidence(space, names["ranked"], names["known"], *accuracies, paid, made, scores))


def real(rate: float, subset: int | None = None) -> RealDataProxy:
    """Return the proxy on real data with the optimizer of the teachers' learners."""
    return RealDataProxy(max(REAL_STEPS), subset=subset, optimizer=Adam(lr=rate))


def curves(
    name: str, scorer: TaughtScorer, names: Sequence[Architecture], steps: Sequence[int], seed: int, cache: Path
) -> list[Scores]:
    """Train every architecture with each of its candidate rates; return its best scores after several steps."""
    cache.mkdir(parents=True, exist_ok=True)
    key = {"settings": json.dumps(scorer.settings(), sort_keys=True), "steps": list(steps), "seed": seed}
    file = cache / f"{name.replace(' ', '_').replace(',', '')}.jsonl"
    known = {}
    if file.exists():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        known = {row["architecture"]: row["points"] for row in rows if {name: row[name] for name in key} == key}
    for architecture in names:
        if architecture.name in known:
            continue
        tuned = scorer.overhead().seconds
        rates = scorer.rates.candidates(architecture)
        tuned = scorer.overhead().seconds - tuned
        tried = [list(scorer.curve(architecture, seed, steps, rate)) for rate in rates]
        known[architecture.name] = []
        for points in zip(*tried, strict=True):
            best = max(points, key=lambda point: point.accuracy)
            cost = tuned + sum(point.cost.seconds for point in points)
            look = sum(point.evaluation_cost.seconds for point in points)
            row = {"step": best.step, "accuracy": best.accuracy, "loss": best.loss, "cost": cost, "look": look}
            known[architecture.name].append(row)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"architecture": architecture.name, **key, "points": known[architecture.name]}) + "\n")
        print(name, "|", seed, "|", architecture, "|", f"{known[architecture.name][-1]['accuracy']:.3f}", flush=True)
    found = []
    for place, step in enumerate(steps):
        so_far = [known[architecture.name][: place + 1] for architecture in names]
        values = [curve[-1]["accuracy"] for curve in so_far]
        found.append(Scores(name, step, seed, values, [with_one_look(curve) for curve in so_far]))
    return found


def with_one_look(curve: Sequence[dict[str, Any]]) -> float:
    """Return the seconds of a training without the intermediate evaluations."""
    return float(curve[-1]["cost"] - sum(point["look"] for point in curve[:-1]))


def without_training(scorer: Scorer, names: Sequence[Architecture]) -> Scores:
    """Return the scores of a proxy without training."""
    scores = scorer.evaluate_all(names)
    values = [score.value if np.isfinite(score.value) else -np.inf for score in scores]
    return Scores(scorer.name, 0, 0, values, [score.cost.seconds for score in scores])


if __name__ == "__main__":
    main()
