"""Learners taught per second by one and by two processes, with one core each.

`gtn fit` runs a recipe for some meta-steps without validation. Runs of one and of two processes alternate, so that a
drift of the machine's speed does not change the ratio.
"""

import argparse
import csv
import statistics
import tempfile

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import fit

WARM_UP = 10
"""Meta-steps of warm-up, not counted."""


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["digits"], help="packaged recipes")
    parser.add_argument("--data", help="the data set in a local folder, for recipes that have one")
    parser.add_argument("--steps", type=int, default=60, help="meta-steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    options = parser.parse_args()
    rows = []
    for recipe in options.recipes:
        overrides = [f"--data.init_args.path={options.data}"] if options.data and recipe != "digits" else []
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.repeats):
            for processes, found in rates.items():
                found.append(processes / seconds(recipe, processes, options.steps, overrides))
        factors = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
        rows += [[recipe, str(processes), f"{statistics.median(found):.2f}", ""] for processes, found in rates.items()]
        rows[-1][-1] = f"{statistics.median(factors):.2f} ({min(factors):.2f} to {max(factors):.2f})"
    write_report(
        "scale",
        "One process and two",
        markdown_table(["recipe", "processes of one core", "learners per second", "two against one"], rows),
        f"Medians of {options.repeats} runs; of a run, the median meta-step after the first {WARM_UP}. DDP with gloo.",
    )


def seconds(recipe: str, processes: int, steps: int, overrides: list[str]) -> float:
    """Return the seconds of a meta-step."""
    with tempfile.TemporaryDirectory() as folder:
        more = [f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"]
        more += [f"--trainer.devices={processes}", "--trainer.strategy=ddp"]
        run = fit(recipe, folder, [*overrides, *more], {"OMP_NUM_THREADS": "1"})
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            found = [float(row["time/meta_step"]) for row in csv.DictReader(file) if row["time/meta_step"]]
    return statistics.median(found[WARM_UP:])


if __name__ == "__main__":
    main()
