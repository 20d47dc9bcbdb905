"""How well cheap scores rank the cells of NAS-Bench-201 by their published CIFAR-10 accuracies, and what they cost.

Parts run in order, each with a time limit; measurements are cached, so the command can be stopped and continued. The
table is a CSV file with the columns ``arch``, ``cifar10_test_200ep`` and ``cifar10_val_12ep``, in percent. Half of its
cells are held out: everything reported is over them, and teachers, regressions and settings know the other half only.
"""

import argparse
import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.nasbench201.bench import COLUMN, FULL, HELD_OUT, Bench, Reduction
from benchmarks.nasbench201.costs import Meta
from benchmarks.nasbench201.curves import LOOKS, Cache, Source, adam, lars, taught
from benchmarks.nasbench201.page import write
from benchmarks.nasbench201.searches import run_searches
from benchmarks.nasbench201.study import Study
from benchmarks.runs import cpu_seconds, fit_once
from gtn_lightning.teacher_file import read_meta_training

KNOWN = 64
"""Cells of the other half that are trained: for regressions, and for the ranking-aware teacher."""

CURVES = 256
"""Cells of the other half with learning curves, if there is time: for regressions that are told more accuracies."""

TUNED = 48
"""Cells of the other half on which settings are compared."""


REDUCTIONS = (
    Reduction(),
    Reduction(size=8),
    Reduction(channels=16),
    Reduction(cells=3),
    Reduction(size=32),
    Reduction(channels=16, cells=3),
)
"""Networks that are compared."""


@dataclass(frozen=True)
class Variant:
    """How a teacher is meta-trained."""

    seed: int = 0
    ranked: bool = False
    """Whether the ranking loss is added; a meta-step then teaches two cells."""
    inner_steps: int = 32
    meta_steps: int = 100


VARIANTS: Mapping[str, Variant] = {
    "teacher 1": Variant(),
    "ranking-aware teacher 1": Variant(ranked=True, meta_steps=50),
    "teacher 2": Variant(seed=1),
    "teacher of 128 steps 1": Variant(inner_steps=128),
    "ranking-aware teacher 2": Variant(seed=1, ranked=True, meta_steps=50),
    "teacher of 128 steps 2": Variant(seed=1, inner_steps=128),
    "longer meta-training 1": Variant(meta_steps=400),
    "longer meta-training 2": Variant(seed=1, meta_steps=400),
}
"""The teachers, in the order in which they are made."""


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
    parser.add_argument("--steps", type=int, default=128, help="steps on real images")
    parser.add_argument("--long", type=int, default=24, help="cells that are trained for 1,200 steps")
    parser.add_argument("--teachers", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), help="which")
    parser.add_argument("--full", action="store_true", help="the benchmark's own networks and images, for a GPU")
    parser.add_argument("--parts", nargs="+", help="run these parts only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench, cache = Bench(options.table, options.data, options.device), Cache(options.output / "curves")
    reduction = FULL if options.full else Reduction()
    cells, known, real = bench.reported[: options.cells], bench.known[:KNOWN], adam(0.01, reduction)
    long = replace(real, name=f"{real.name}-long")

    def runs_of(name: str) -> Path:
        return options.output / "teachers" / slug(name) / str(reduction)

    def teacher_of(name: str) -> Path:
        return next((runs_of(name) / "nas_cifar10" / str(VARIANTS[name].seed)).glob("*/teacher.safetensors"))

    def source_of(name: str) -> Source:
        return taught(str(teacher_of(name)), slug(name), reduction)

    def made() -> dict[str, Variant]:
        return {name: one for name, one in VARIANTS.items() if cache.curves(f"{slug(name)}-{reduction}")}

    def teach(name: str) -> Callable[[float], None]:
        variant = VARIANTS[name]

        def part(until: float) -> None:
            overrides = [
                *(f"--data.init_args.path={options.data}", f"--data.init_args.size={reduction.size}"),
                f"--model.task.init_args.shape=[3, {reduction.size}, {reduction.size}]",
                *(f"--trainer.accelerator={options.device}", f"--model.inner_loop.steps={variant.inner_steps}"),
                *("--model.evaluation.learners=2", "--model.evaluation.real_rates=[0.01]"),
                # The rest of the time is for the cells' trainings.
                f"--trainer.max_time={clock((until - time.monotonic()) / 2)}",
                *(f"--trainer.max_steps={variant.meta_steps}", f"--trainer.val_check_interval={variant.meta_steps}"),
            ]
            space = (
                f"{{class_path: NASBench201, init_args: {{cells: {reduction.cells}, channels: {reduction.channels}}}}}"
            )
            if variant.ranked:
                table = write_known(bench, options.output / "known.csv", options.table)
                reference = f"{{class_path: TableReference, init_args: {{path: {table}}}}}"
                learners = f"space: {space}, reference: {reference}, weight: 5.0, held_out: {HELD_OUT}"
                overrides += [
                    f"--model.learners={{class_path: RankedLearners, init_args: {{{learners}}}}}",
                    "--model.population=2",
                ]
            else:
                overrides.append(f"--model.learners.init_args.space={space}")
            fit_once("nas_cifar10", variant.seed, runs_of(name), overrides)
            source = source_of(name)
            cache.measure(bench, source, [*cells, *known], [0], variant.inner_steps, until)
            cache.measure(bench, source, cells, [1], variant.inner_steps, until)

        return part

    sources = {
        "Adam, 0.01": real,
        "Adam, 0.003": adam(0.003, reduction),
        "Adam, 0.03": adam(0.03, reduction),
        "LARS, 0.05": lars(0.05, reduction),
        **{f"Adam, 0.01: {other.words}": adam(0.01, other) for other in REDUCTIONS if other != reduction},
    }

    def tune(until: float) -> None:
        for source in sources.values():
            cache.measure(bench, source, bench.known[:TUNED], [0], options.steps, until)

    def measure_untrained(until: float) -> None:
        cache.measure_untrained(bench, [*cells, *known, *bench.reported, *bench.known], until)

    def measure_best(until: float) -> None:
        accuracies = bench.accuracies(bench.reported)
        best = [bench.reported[place] for place in accuracies.argsort(descending=True).tolist()]
        cache.measure(bench, real, best[: len(best) // 10], [0], options.steps, until)
        for name, variant in made().items():
            cache.measure(bench, source_of(name), best[: len(best) // 10], [0], variant.inner_steps, until)

    def measure_known(until: float) -> None:
        cache.measure(bench, real, bench.known[:CURVES], [0], options.steps, until)
        for name, variant in made().items():
            if variant == Variant():
                cache.measure(bench, source_of(name), bench.known[:CURVES], [0], variant.inner_steps, until)

    searches = options.output / "trained.jsonl"

    def search(until: float) -> None:
        run_searches(Study(bench, cache, real.key, long.key, {}, options.cells), searches, until)

    parts: dict[str, Callable[[float], None]] = {
        "untrained": measure_untrained,
        "search": search,
        "real": lambda until: cache.measure(bench, real, [*known, *cells], [0], options.steps, until),
        **{name: teach(name) for name in options.teachers},
        "real, second seed": lambda until: cache.measure(bench, real, cells, [1], options.steps, until),
        "settings": tune,
        "long": lambda until: cache.measure(bench, long, cells[: options.long], [0], LOOKS[-1], until),
        "best tenth": measure_best,
        "known curves": measure_known,
    }
    unknown = [name for name in options.parts or () if name not in {*parts, "report"}]
    if unknown:
        parser.error(f"--parts must be among {', '.join([*parts, 'report'])}, got {', '.join(unknown)}")
    for name, part in parts.items():
        if options.parts is None or name in options.parts:
            print(f"part {name}", flush=True)
            part(time.monotonic() + 60 * options.minutes)
    if options.parts is None or "report" in options.parts:
        seconds, meta_steps = {}, {}
        for name, variant in made().items():
            seconds[name] = cpu_seconds("nas_cifar10", variant.seed, runs_of(name))
            meta_steps[name] = int((read_meta_training(teacher_of(name)) or {"meta_steps": 0})["meta_steps"])
        teachers = {name: source_of(name).key for name in seconds}
        study = Study(bench, cache, real.key, long.key, teachers, options.cells)
        write(
            study, {name: one.key for name, one in sources.items()}, Meta(seconds, meta_steps), searches, options.mnist
        )


def clock(seconds: float) -> str:
    """Return a duration, at least a second, as days, hours, minutes and seconds."""
    minutes, rest = divmod(max(1, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{rest:02}"


def slug(name: str) -> str:
    """Return a name as part of a path."""
    return name.replace(" ", "-")


def write_known(bench: Bench, file: Path, table: str) -> Path:
    """Write the accuracies that a ranking-aware teacher knows, and no others."""
    names = {cell.name for cell in bench.known[:KNOWN]}
    with Path(table).open(newline="", encoding="utf-8") as source:
        rows = [row for row in csv.DictReader(source) if row["arch"] in names]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["architecture", "accuracy"])
        writer.writerows([row["arch"], f"{float(row[COLUMN]) / 100:.6f}"] for row in rows)
    return file


if __name__ == "__main__":
    main()
