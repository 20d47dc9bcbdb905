"""How well, and at what cost, proxies rank networks of the ConvNet grid on MNIST.

The networks are those of `benchmarks/nas_reference.csv` (made by `benchmarks.nas_reference`), none of which a teacher
was meta-trained on, and others whose accuracies are known. What was measured before is not measured again: the command
may be stopped, and `--only` lets several processes share the work.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nas_reference import TABLE, ground
from benchmarks.nas_report import RANKED, REAL_STEPS, SUBSET_STEPS, SYNTHETIC_STEPS, Evidence, Scores, report
from benchmarks.transfer import newest
from gtn_lightning.inner_loop import Adam
from gtn_lightning.nas import NASWOT, FLOPs, GTNProxy, NumParameters, RealDataProxy, SynFlow, TableReference
from gtn_lightning.nas.proxies import Proxy
from gtn_lightning.nas.proxies.taught import TaughtProxy

RATES = (0.0025, 0.005, 0.01)
"""Inner rates for Adam, tried where one is not the same for all."""


def main() -> None:
    """Measure what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST on the hub or in a local folder")
    parser.add_argument("--teacher", type=Path, help="teacher file of nas_mnist; the newest run's if left out")
    parser.add_argument("--ranked-teacher", type=Path, help="teacher file of nas_mnist_ranked; the newest run's")
    parser.add_argument("--cache", type=Path, default=Path("runs/nas/courses"), help="folder of what was measured")
    parser.add_argument("--rate", type=float, default=0.005, help="Adam's rate on real data: as the teachers'")
    parser.add_argument("--seeds", type=int, default=2, help="courses of every network, with seeds from zero")
    parser.add_argument("--only", nargs="+", help="measure these proxies and write no report")
    options = parser.parse_args()
    space, data = ground(options.data)
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {
        part: list(dict.fromkeys(row["architecture"] for row in rows if row["part"] == part))
        for part in ("ranked", "known")
    }
    teacher = str(options.teacher or newest("runs/nas_mnist"))
    ranked = str(options.ranked_teacher or newest("runs/nas_mnist_ranked"))
    # A proxy, the steps after which it is looked at with the first seed, and with the others.
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
            proxy = make()
            proxy.attach(space, data)
            for seed in range(options.seeds):
                points = steps[min(seed, 1)]
                if points:
                    scores += courses(name, proxy, [*names["ranked"], *names["known"]], points, seed, options.cache)
    if options.only is not None:
        return
    for untaught in (NumParameters(), FLOPs(), SynFlow(), NASWOT()):
        untaught.attach(space, data)
        scores.append(without_training(untaught, [*names["ranked"], *names["known"]]))
    table = TableReference(str(TABLE))
    paid = table.seconds(space, names["known"])
    made = {"GTN": GTNProxy(teacher).overhead().seconds, RANKED: GTNProxy(ranked).overhead().seconds}
    accuracies = table.accuracies(space, names["ranked"]), table.accuracies(space, names["known"])[:, 0]
    report(Evidence(space, names["ranked"], names["known"], *accuracies, paid, made, scores))


def real(rate: float, subset: int | None = None) -> RealDataProxy:
    """Return real data with the optimizer that the teachers' learners have."""
    return RealDataProxy(max(REAL_STEPS), subset=subset, optimizer=Adam(lr=rate))


def courses(
    name: str, proxy: TaughtProxy, names: Sequence[str], steps: Sequence[int], seed: int, cache: Path
) -> list[Scores]:
    """Teach every architecture with each rate that its proxy has for it; return its best scores at several steps."""
    cache.mkdir(parents=True, exist_ok=True)
    key = {"settings": json.dumps(proxy.settings(), sort_keys=True), "steps": list(steps), "seed": seed}
    file = cache / f"{name.replace(' ', '_').replace(',', '')}.jsonl"
    known = {}
    if file.exists():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        known = {row["architecture"]: row["points"] for row in rows if {name: row[name] for name in key} == key}
    for architecture in names:
        if architecture in known:
            continue
        tuned = proxy.overhead().seconds
        rates = proxy.rates_for(architecture)
        tuned = proxy.overhead().seconds - tuned
        tried = [list(proxy.course(architecture, seed, steps, rate)) for rate in rates]
        known[architecture] = [
            {
                **max(points, key=lambda point: point.accuracy)._asdict(),
                "cost": tuned + sum(point.cost.seconds for point in points),
                "look": sum(point.look.seconds for point in points),
            }
            for points in zip(*tried, strict=True)
        ]
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"architecture": architecture, **key, "points": known[architecture]}) + "\n")
        print(name, "|", seed, "|", architecture, "|", f"{known[architecture][-1]['accuracy']:.3f}", flush=True)
    found = []
    for place, step in enumerate(steps):
        so_far = [known[architecture][: place + 1] for architecture in names]
        values = {
            "accuracy": [course[-1]["accuracy"] for course in so_far],
            "loss": [-course[-1]["loss"] for course in so_far],
            "area": [sum(point["accuracy"] for point in course) / len(course) for course in so_far],
        }
        found.append(Scores(name, step, seed, values, [with_one_look(course) for course in so_far]))
    return found


def with_one_look(course: Sequence[dict[str, Any]]) -> float:
    """Return the seconds of a course with a look at its end alone: whoever wants one score takes one look."""
    return float(course[-1]["cost"] - sum(point["look"] for point in course[:-1]))


def without_training(proxy: Proxy, names: Sequence[str]) -> Scores:
    """Return the scores of a proxy that trains nothing."""
    scores = proxy.evaluate_all(names)
    values = [score.value if np.isfinite(score.value) else -np.inf for score in scores]
    return Scores(proxy.name, 0, 0, {"accuracy": values}, [score.cost.seconds for score in scores])


if __name__ == "__main__":
    main()
