"""Evolution strategies beside the exact meta-gradient: the same recipe, as many episodes per meta-step, several seeds.

The exact gradient teaches eight policies per meta-step and lets each play 12 episodes; evolution strategies score eight
antithetic pairs of perturbed teachers, each by one policy and six episodes. So both take 96 episodes per meta-step.
"""

import argparse
import csv
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.report import RESULTS, markdown_table, write_report
from benchmarks.runs import cpu_seconds, fit_once

BAR = 475.0
COMMON = [
    "--trainer.val_check_interval=10",
    "--model.evaluation.learners=12",
    "--data.init_args.eval_episodes=10",
    "--trainer.log_every_n_steps=1",
]
STRATEGIES = [
    "--model.population=1",
    "--data.init_args.episodes=6",
    "--model.outer_gradient.class_path=EvolutionStrategies",
    "--model.outer_gradient.init_args.pairs=8",
]
SETTINGS: dict[str, list[str]] = {
    "exact": [],
    "ES, sigma 0.1": [*STRATEGIES, "--model.outer_gradient.init_args.sigma=0.1"],
}
"""Overrides of the recipe for each setting."""


def curve(recipe: str, setting: str, seed: int, meta_steps: int, output: Path) -> dict[str, list[float]]:
    """Return a run's validation returns, with the environment steps and seconds of meta-training before each.

    The seconds are the run's CPU seconds, divided as the wall clock of its meta-steps was.
    """
    place = output / setting.replace(" ", "_").replace(",", "")
    overrides = [*COMMON, f"--trainer.max_steps={meta_steps}", *SETTINGS[setting]]
    file = fit_once(recipe, seed, place, overrides)
    with (file.parent / "metrics.csv").open(encoding="utf-8") as log:
        rows = list(csv.DictReader(log))
    found: dict[str, list[float]] = {"steps": [], "seconds": [], "returns": []}
    seconds = steps = 0.0
    for row in rows:
        seconds += float(row.get("time/meta_step") or 0)
        steps = float(row.get("train/env_steps") or steps)
        if row.get("val/return"):
            for name, value in (("steps", steps), ("seconds", seconds), ("returns", float(row["val/return"]))):
                found[name].append(value)
    share = cpu_seconds(recipe, seed, place) / seconds
    return found | {"seconds": [share * value for value in found["seconds"]]}


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cartpole", choices=["cartpole", "cartpole_smallest"], help="the recipe")
    parser.add_argument("--seeds", type=int, default=5, help="meta-seeds")
    parser.add_argument("--meta-steps", type=int, default=100, help="meta-steps of a run")
    parser.add_argument("--output", type=Path, default=Path("runs/outer_gradients"), help="where the runs are kept")
    options = parser.parse_args()
    found = {
        setting: [
            curve(options.recipe, setting, seed, options.meta_steps, options.output) for seed in range(options.seeds)
        ]
        for setting in SETTINGS
    }
    rows = []
    for setting, curves in found.items():
        returns = torch.tensor([each["returns"] for each in curves])  # [seeds, validations]
        reached = [
            next(
                (
                    f"{steps / 1e6:.2f} M"
                    for steps, value in zip(each["steps"], each["returns"], strict=True)
                    if value >= BAR
                ),
                "-",
            )
            for each in curves
        ]
        half, last = returns.shape[1] // 2 - 1, returns.shape[1] - 1
        rows.append(
            [
                setting,
                *(f"{returns[:, place].mean():.0f} ± {returns[:, place].std():.0f}" for place in (half, last)),
                ", ".join(reached),
                f"{sum(each['steps'][-1] for each in curves) / len(curves) / 1e6:.2f} M",
                f"{sum(each['seconds'][-1] for each in curves) / len(curves):.0f}",
            ]
        )
    heading = [
        "outer gradient",
        "return at half the meta-steps",
        "return at the end",
        f"environment steps to {BAR:.0f}",
    ]
    picture = "![curves](outer_gradients.png)"
    table = markdown_table([*heading, "environment steps", "CPU seconds"], rows)
    note = (
        f"`{options.recipe}`, {options.meta_steps} meta-steps. Greedy validation returns of never-seen policies; mean "
        f"and standard deviation over {options.seeds} meta-seeds. In the picture, a line is a meta-seed. "
        "The exact gradient takes the recipe's several updates from each set of episodes, evolution strategies one. "
        "Their sigma was not tuned."
    )
    write_report("outer_gradients", "Evolution strategies and the exact meta-gradient", f"{table}\n\n{picture}", note)
    draw(found).savefig(RESULTS / "outer_gradients.png")


def draw(found: dict[str, list[dict[str, list[float]]]]) -> Figure:
    """Draw a curve for each seed, and their mean, against environment steps and against seconds."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for number, (setting, curves) in enumerate(found.items()):
        for place, each in enumerate(curves):
            label = setting if not place else None
            for axes, across in ((by_steps, "steps"), (by_seconds, "seconds")):
                axes.plot(each[across], each["returns"], color=f"C{number}", alpha=0.7, linewidth=1, label=label)
    by_steps.set_xlabel("environment steps")
    by_seconds.set_xlabel("CPU seconds")
    by_steps.set_ylabel("validation return")
    for axes in (by_steps, by_seconds):
        axes.grid(alpha=0.3)
    by_steps.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
