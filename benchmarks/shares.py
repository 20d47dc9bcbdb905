"""Shares of the parts of a meta-step in its time, for packaged recipes.

`gtn fit` runs the recipe for a few meta-steps under torch's profiler, which sees the labels that the code records.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import fit

MEASURED = 8
"""Number of profiled meta-steps, at the end of the run."""

RECIPES: dict[str, list[str]] = {
    "digits": ["--trainer.max_steps=40"],
    "mnist_cpu": ["--trainer.max_steps=12"],
    # Few inner steps for the large recipes, since the shares hardly depend on their number.
    "mnist": ["--trainer.max_steps=10", "--model.inner_loop.steps=4", "--model.inner_loop.mode=compiled"],
    "cifar10": ["--trainer.max_steps=10", "--model.inner_loop.steps=4", "--model.inner_loop.mode=compiled"],
}

PARTS = {
    "a fresh learner": "learner",
    "the learner's gradients": "inner gradient",
    "the learner's Hessian products": "inner gradient, backward",
    "the meta-loss": "meta-loss",
    "the teacher, forward": "teacher",
    "the inner optimizer, forward": "inner optimizer",
}
"""The profiler label of each part."""

LEARNER = ("the learner's gradients", "the learner's Hessian products", "the meta-loss")


class Profiled(pl.Callback):
    """Profiles the last meta-steps of a run and writes the seconds of each part into the run folder."""

    def __init__(self) -> None:
        self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
        self._whole = self._backward = self._began = self._backward_began = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the timer after warm-up."""
        if trainer.global_step == trainer.max_steps - MEASURED:
            self._profiler.start()
        self._began = time.perf_counter()

    def on_before_backward(self, *_: Any) -> None:
        """Start the timer of the backward pass."""
        self._backward_began = time.perf_counter()

    def on_after_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the timer of the backward pass."""
        if trainer.global_step >= trainer.max_steps - MEASURED:
            self._backward += time.perf_counter() - self._backward_began

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the timer of the meta-step."""
        if trainer.global_step > trainer.max_steps - MEASURED:
            self._whole += time.perf_counter() - self._began
        if trainer.global_step == trainer.max_steps:
            self._profiler.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the measurements."""
        spent = {event.key: event.cpu_time_total / 1e6 / MEASURED for event in self._profiler.key_averages()}
        seconds = {name: spent.get(label, 0.0) for name, label in PARTS.items()}
        seconds["teacher and inner optimizer, backward"] = self._backward / MEASURED - seconds[LEARNER[1]]
        seconds["everything else"] = self._whole / MEASURED - sum(seconds.values())
        (Path(trainer.default_root_dir) / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


def main() -> None:
    """Measure the recipes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["digits"], choices=RECIPES)
    parser.add_argument("--mnist", help="MNIST in a local folder, for mnist and mnist_cpu")
    parser.add_argument("--cifar10", help="CIFAR-10 in a local folder, for cifar10")
    options = parser.parse_args()
    rows = []
    for recipe in options.recipes:
        path = options.cifar10 if recipe == "cifar10" else options.mnist if recipe != "digits" else None
        parts = measured(recipe, [f"--data.init_args.path={path}"] if path else [])
        whole = sum(parts.values())
        parts["all but the learner's own arithmetic"] = whole - sum(parts[name] for name in LEARNER)
        parts["a meta-step"] = whole
        rows += [
            [recipe, name, f"{1000 * seconds:.1f} ms", f"{100 * seconds / whole:.0f} %"]
            for name, seconds in parts.items()
        ]
    write_report(
        "shares",
        "Where the time of a meta-step goes",
        markdown_table(["recipe", "part", "time", "share"], rows),
        f"Means over the last {MEASURED} meta-steps of a short run, under torch's profiler. `mnist` and `cifar10` "
        "with 4 inner steps, compiled.",
    )


def measured(recipe: str, overrides: list[str]) -> dict[str, float]:
    """Return seconds per meta-step of each part of a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        more = ["--model.evaluation.learners=1", "--trainer.precision=32-true"]
        more += ["--trainer.callbacks+=benchmarks.shares.Profiled"]
        root = str(Path(__file__).resolve().parent.parent)
        run = fit(recipe, folder, [*RECIPES[recipe], *overrides, *more], {"PYTHONPATH": root})
        seconds: dict[str, float] = json.loads((run / "seconds.json").read_text(encoding="utf-8"))
    return seconds


if __name__ == "__main__":
    main()
