"""The table recipes over several seeds: synthetic rows, and the same number of steps on real rows."""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import fit_and_test

RECIPES = {"wine": "accuracy", "diabetes": "rmse"}
"""The metric of each recipe."""


def main() -> None:
    """Run all recipes and print a table of test scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of every recipe")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/tables"), help="where the runs are kept")
    options = parser.parse_args()
    jobs = [(recipe, seed) for seed in range(options.seeds) for recipe in RECIPES]
    with ThreadPoolExecutor(options.jobs) as pool:
        scores = list(pool.map(lambda job: fit_and_test(job[0], job[1], options.output), jobs))
    rows = []
    for recipe, metric in RECIPES.items():
        own = [score for (name, _), score in zip(jobs, scores, strict=True) if name == recipe]
        cells = []
        for key in (f"test/{metric}", f"test/{metric}_real"):
            values = [score[key] for score in own]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {deviation:.3f}")
        differences = [score[f"test/{metric}"] - score[f"test/{metric}_real"] for score in own]
        rows.append([f"`{recipe}`", metric, *cells, ", ".join(map("{:+.3f}".format, differences))])
    write_report(
        "tables",
        "Tables",
        markdown_table(["recipe", "metric", "synthetic rows", "real rows, best of five rates", "difference"], rows),
        "On the test split, after as many inner steps of as many rows. Mean and standard deviation over "
        f"{options.seeds} seeds of the mean over 10 never-seen learners, and the difference for every seed. "
        "The splits are the same for all seeds.",
    )


if __name__ == "__main__":
    main()
