"""The digits recipe with every curriculum, fixed noise, learned pixels, and real data, over several seeds.

Every run is `gtn fit` and then `gtn test` of the best teacher, in separate processes.
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import fit_and_test

VARIANTS = {
    "digits": "generator, full curriculum, learned noise",
    "digits_fixed_noise": "generator, full curriculum, fixed noise",
    "digits_shuffled_batches": "generator, shuffled batches",
    "digits_shuffled_all": "generator, shuffled all",
    "digits_no_curriculum": "generator, no curriculum",
    "digits_pixels": "free pixels, full curriculum",
    "digits_real": "real data with learned rates",
}


def main() -> None:
    """Run all variants and print a table of test accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of every variant")
    parser.add_argument("--steps", type=int, default=600, help="meta-steps of a run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="where the runs are kept")
    options = parser.parse_args()
    jobs = [(variant, seed) for seed in range(options.seeds) for variant in VARIANTS]
    with ThreadPoolExecutor(options.jobs) as pool:
        scores = list(pool.map(lambda job: run(job[0], job[1], options.steps, options.output), jobs))
    rows = []
    for variant, description in VARIANTS.items():
        own = [score for (name, _), score in zip(jobs, scores, strict=True) if name == variant]
        rows.append([description, f"`{variant}`", _spread([score[0] for score in own])])
    baseline = _spread([score[1] for (name, _), score in zip(jobs, scores, strict=True) if name == "digits"])
    rows.append(["real data, best of five constant rates", "the baseline of `digits`", baseline])
    write_report(
        "digits",
        "Digits: curricula and teachers",
        markdown_table(["data", "recipe", "test accuracy"], rows),
        f"After 10 inner steps of 32 images, {options.steps} meta-steps. Mean and standard deviation over "
        f"{options.seeds} seeds of the mean over 10 never-seen learners.",
    )


def run(variant: str, seed: int, steps: int, output: Path) -> tuple[float, float]:
    """Meta-train and test one variant; return its test accuracy and that of real data with the best constant rate."""
    row = fit_and_test(variant, seed, output, [f"--trainer.max_steps={steps}"])
    print(f"{variant}, seed {seed}: {row['test/accuracy']:.4f}", flush=True)
    return row["test/accuracy"], row["test/accuracy_real"]


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f} %"


if __name__ == "__main__":
    main()
