"""How well cheap scores rank the cells of NAS-Bench-201 by their published CIFAR-10 accuracies, and what they cost.

Parts run in order, each with a time limit; measurements are cached, so the command can be stopped and continued. The
table is a CSV file with the columns ``arch``, ``cifar10_test_200ep`` and ``cifar10_val_12ep``, in percent. Half of its
cells are held out: everything reported is over them, and teachers, regressions and settings know the other half only.
"""

import argparse
import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.nasbench201_curves import COLUMN, FULL, Bench, Cache, Reduction, adam, lars, taught
from benchmarks.nasbench201_page import write
from benchmarks.nasbench201_report import Meta, Study, run_searches
from benchmarks.runs import cpu_seconds, fit_once
from gtn_lightning.teacher_file import read_meta_training

KNOWN = 64
"""Cells of the other half that are trained: for regressions, and for the ranking-aware teacher."""

UNTRAINED = 256
"""Cells of the other half that are measured without training."""

TUNED = 48
"""Cells of the other half on which settings are compared."""

VARIANTS: Mapping[str, tuple[bool, int]] = {
    "teacher 1": (False, 0),
    "ranking-aware teacher": (True, 0),
    "teacher 2": (False, 1),
    "ranking-aware teacher 2": (True, 1),
}
"""The teachers, in the order in which they are made: whether the ranking loss is added, and the seed."""


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
    parser.add_argument("--inner-steps", type=int, default=32, help="steps on synthetic images")
    parser.add_argument("--meta-steps", type=int, default=100, help="of a teacher; a ranking-aware one makes half")
    parser.add_argument("--teachers", nargs="*", choices=list(VARIANTS), default=list(VARIANTS)[:2], help="which")
    parser.add_argument("--full", action="store_true", help="the benchmark's own networks and images, for a GPU")
    parser.add_argument("--parts", nargs="+", help="run these parts only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench, cache = Bench(options.table, options.data, options.device), Cache(options.output / "curves")
    reduction = FULL if options.full else Reduction()
    cells, known, real = bench.reported[: options.cells], bench.known[:KNOWN], adam(0.01, reduction)
    long = replace(real, name=f"{real.name}-long")

    def teach(name: str) -> Callable[[float], None]:
        ranked, seed = VARIANTS[name]

        def part(until: float) -> None:
            overrides = [
                *(f"--data.init_args.path={options.data}", f"--data.init_args.size={reduction.size}"),
                f"--model.task.init_args.shape=[3, {reduction.size}, {reduction.size}]",
                *(f"--trainer.accelerator={options.device}", f"--model.inner_loop.steps={options.inner_steps}"),
                *("--model.evaluation.learners=2", "--model.evaluation.real_rates=[0.01]"),
            ]
            space = (
                f"{{class_path: NASBench201, init_args: {{cells: {reduction.cells}, channels: {reduction.channels}}}}}"
            )
            steps = options.meta_steps
            if ranked:
                steps = max(1, steps // 2)
                table = write_known(bench, options.output / "known.csv", options.table)
                reference = f"{{class_path: TableReference, init_args: {{path: {table}}}}}"
                learners = f"space: {space}, reference: {reference}, weight: 5.0, held_out: 0.5"
                overrides += [
                    f"--model.learners={{class_path: RankedLearners, init_args: {{{learners}}}}}",
                    "--model.population=2",
                ]
            else:
                overrides.append(f"--model.learners.init_args.space={space}")
            overrides += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"]
            output = options.output / "teachers" / ("ranked" if ranked else "plain") / str(reduction)
            teacher = fit_once("nas_cifar10", seed, output, overrides)
            source = taught(str(teacher), name.replace(" ", "-"), reduction)
            cache.measure(bench, source, [*cells, *known], [0], options.inner_steps, until)
            cache.measure(bench, source, cells, [1], options.inner_steps, until)

        return part

    sources = {"Adam, 0.01": real, "Adam, 0.003": adam(0.003, reduction), "LARS, 0.05": lars(0.05, reduction)}

    def tune(until: float) -> None:
        for source in sources.values():
            cache.measure(bench, source, bench.known[:TUNED], [0], options.steps, until)

    def measure_untrained(until: float) -> None:
        cache.measure_untrained(bench, [*cells, *bench.known[:UNTRAINED]], until)

    searches = options.output / "searches.jsonl"

    def search(until: float) -> None:
        run_searches(Study(bench, cache, real.key, long.key, {}, options.cells), searches, until)

    parts: dict[str, Callable[[float], None]] = {
        "untrained": measure_untrained,
        "search": search,
        "real": lambda until: cache.measure(bench, real, [*known, *cells], [0], options.steps, until),
        **{name: teach(name) for name in options.teachers},
        "real, second seed": lambda until: cache.measure(bench, real, cells, [1], options.steps, until),
        "settings": tune,
        "long": lambda until: cache.measure(bench, long, cells[: options.long], [0], 1200, until),
    }
    for name, part in parts.items():
        if options.parts is None or name in options.parts:
            print(f"part {name}", flush=True)
            part(time.monotonic() + 60 * options.minutes)
    if options.parts is None or "report" in options.parts:
        made, seconds, meta_steps = {}, {}, {}
        for name, (ranked, seed) in VARIANTS.items():
            source = f"{name.replace(' ', '-')}-{reduction}"
            if cache.curves(source):
                made[name] = source
                output = options.output / "teachers" / ("ranked" if ranked else "plain") / str(reduction)
                seconds[name] = cpu_seconds("nas_cifar10", seed, output)
                (teacher,) = (output / "nas_cifar10" / str(seed)).glob("*/teacher.safetensors")
                meta_steps[name] = int((read_meta_training(teacher) or {"meta_steps": 0})["meta_steps"])
        study = Study(bench, cache, real.key, long.key, made, options.cells)
        write(
            study, {name: one.key for name, one in sources.items()}, Meta(seconds, meta_steps), searches, options.mnist
        )


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
