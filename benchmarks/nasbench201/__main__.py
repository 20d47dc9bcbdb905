"""How well cheap scores rank the cells of NAS-Bench-201 by their published CIFAR-10 accuracies, and what they cost.

Parts run in order, each with a time limit; measurements are cached, so the command can be stopped and continued. The
table is a CSV file with the columns ``arch``, ``cifar10_test_200ep`` and ``cifar10_val_12ep``, in percent. Half of its
cells are held out: everything reported is over them, and teachers, regressions and settings know the other half only.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.nasbench201.bench import FULL, Bench, Reduction
from benchmarks.nasbench201.costs import Speed, measure_speed
from benchmarks.nasbench201.curves import LOOKS, Cache, Source, adam, lars
from benchmarks.nasbench201.page import write
from benchmarks.nasbench201.search_runs import run_searches
from benchmarks.nasbench201.study import CURVES, KNOWN, LEARNERS, MOST, SHORT, TUNED, Study
from benchmarks.nasbench201.teachers import VARIANTS, Teachers, Variant
from gtn_lightning.errors import RecipeError

REDUCTIONS = (
    Reduction(),
    Reduction(size=8),
    Reduction(channels=16),
    Reduction(cells=3),
    Reduction(size=32),
    Reduction(channels=16, cells=3),
)
"""Networks that are compared."""


def main() -> None:
    """Measure what is not cached, part by part, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="uoft-cs/cifar10", help="CIFAR-10 on the hub or in a local folder")
    parser.add_argument("--table", required=True, help="CSV file of the cells' accuracies")
    parser.add_argument("--mnist", help="MNIST on the hub or in a local folder, for a table of the second space")
    parser.add_argument("--output", type=Path, default=Path("runs/nasbench201"), help="folder of the measurements")
    parser.add_argument("--device", default="cpu", help="where networks run: cpu or cuda")
    parser.add_argument("--minutes", type=float, default=60, help="time limit of each part")
    parser.add_argument("--cells", type=int, default=150, help="held-out cells that are ranked")
    parser.add_argument("--long", type=int, default=100, help="cells that are trained for 1,200 steps")
    parser.add_argument("--teachers", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), help="which")
    parser.add_argument("--full", action="store_true", help="the benchmark's own networks and images, for a GPU")
    parser.add_argument("--parts", nargs="+", help="run these parts only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench, cache = Bench(options.table, options.data, options.device), Cache(options.output / "curves")
    reduction = FULL if options.full else Reduction()
    teachers = Teachers(bench, cache, reduction, options.output)
    cells, known, real = bench.reported[: options.cells], bench.known[:KNOWN], adam(0.01, reduction)
    slow = adam(0.003, reduction)
    long = replace(real, name=f"{real.name}-long")
    searched, timed = options.output / "searches.jsonl", options.output / "speed.jsonl"
    settings = {
        "Adam, 0.01": real,
        "Adam, 0.003": slow,
        "Adam, 0.03": adam(0.03, reduction),
        "LARS, 0.05": lars(0.05, reduction),
        **{f"Adam, 0.01: {other.words}": adam(0.01, other) for other in REDUCTIONS if other != reduction},
    }

    def study() -> Study:
        plain, ranked = ({name: teachers.source(name).key for name in teachers.made(which)} for which in (False, True))
        rates = {"real images, Adam 0.003": slow.key} if cache.curves(slow.key) else {}
        return Study(bench, cache, reduction, real.key, long.key, rates, plain, ranked, options.cells)

    def untrained(until: float) -> None:
        everything = dict.fromkeys([*cells, *bench.known[:CURVES], *bench.reported, *bench.known])
        cache.measure_untrained(bench, list(everything), until)

    def teach(name: str) -> Callable[[float], None]:
        def part(until: float) -> None:
            teachers.meta_train(name, options.table, until)
            source, steps = teachers.source(name), VARIANTS[name].inner_steps
            cache.measure(bench, source, [*cells, *known], [0], steps, until)
            cache.measure(bench, source, cells, [1], steps, until)

        return part

    def short() -> list[Source]:
        made = teachers.made(ranked=False).items()
        return [real, *(teachers.source(name) for name, one in made if one == Variant(seed=one.seed))]

    def several_learners(until: float) -> None:
        for source in short():
            cache.measure(bench, source, [*known, *cells], range(LEARNERS), SHORT, until)

    def tune(until: float) -> None:
        for source in settings.values():
            cache.measure(bench, source, bench.known[:TUNED], [0], MOST, until)

    def slower(until: float) -> None:
        cache.measure(bench, slow, [*known, *cells], [0], MOST, until)
        cache.measure(bench, slow, cells, [1], MOST, until)

    def best_tenth(until: float) -> None:
        for source in short():
            cache.measure(bench, source, bench.best_tenth, range(LEARNERS), SHORT, until)
        for source in (slow, real):
            cache.measure(bench, source, bench.best_tenth, [0], MOST, until)

    def known_curves(until: float) -> None:
        cache.measure(bench, real, bench.known[:CURVES], [0], MOST, until)
        for name, variant in teachers.made(ranked=False).items():
            if variant in (Variant(), Variant(inner_steps=MOST)):
                cache.measure(bench, teachers.source(name), bench.known[:CURVES], [0], variant.inner_steps, until)

    parts: dict[str, Callable[[float], None]] = {
        "untrained": untrained,
        "speed": lambda until: measure_speed(bench, timed, until),
        "search": lambda until: run_searches(study(), searched, until),
        "real": lambda until: cache.measure(bench, real, [*known, *cells], [0], MOST, until),
        **{name: teach(name) for name in options.teachers},
        "real, second seed": lambda until: cache.measure(bench, real, cells, [1], MOST, until),
        "several learners": several_learners,
        "settings": tune,
        "slower rate": slower,
        "long": lambda until: cache.measure(bench, long, cells[: options.long], [0], LOOKS[-1], until),
        "best tenth": best_tenth,
        "known curves": known_curves,
        "report": lambda until: write(
            study(),
            {name: one.key for name, one in settings.items()},
            teachers.meta(),
            searched,
            Speed.of(timed),
            options.mnist,
        ),
    }
    unknown = [name for name in options.parts or () if name not in parts]
    if unknown:
        parser.error(f"--parts must be among {', '.join(parts)}, got {', '.join(unknown)}")
    for name, part in parts.items():
        if options.parts is None or name in options.parts:
            print(f"part {name}", flush=True)
            part(time.monotonic() + 60 * options.minutes)


if __name__ == "__main__":
    try:
        main()
    except RecipeError as error:
        sys.exit(str(error))
