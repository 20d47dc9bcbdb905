"""What a whole meta-step spends its time on, for packaged recipes.

`gtn fit` runs the recipe for a few meta-steps under Python's profiler, which sees every part where it happens, in the
state of caches and memory that it has there.
"""

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import fit

MEASURED = 8
"""Meta-steps under the profiler, the last ones of the run."""

RECIPES: dict[str, list[str]] = {
    "digits": ["--trainer.max_steps=40"],
    "mnist_cpu": ["--trainer.max_steps=12"],
    # A few inner steps of the large ones: the shares hardly depend on their number.
    "mnist": ["--trainer.max_steps=10", "--model.inner_loop.steps=4", "--model.inner_loop.mode=compiled"],
    "cifar10": ["--trainer.max_steps=10", "--model.inner_loop.steps=4", "--model.inner_loop.mode=compiled"],
}

PARTS: dict[str, tuple[str, str]] = {
    "a fresh learner": ("gtn_lightning/module.py", "_fresh_population"),
    "the learner's gradients": ("inner_loop/modes/node.py", "forward"),
    "the learner's Hessian products": ("inner_loop/modes/node.py", "backward"),
    "the meta-loss": ("inner_loop/gradients.py", "eager_loss"),
    "the teacher, forward": ("gtn_lightning/module.py", "_batches"),
    "the inner optimizer, forward": ("inner_loop/optimizers.py", "update"),
}
"""The function that each part is the time of, by the end of its file's path and its name."""

BACKWARD = ("strategies/strategy.py", "backward")
LEARNER = ("the learner's gradients", "the learner's Hessian products", "the meta-loss")


class Profiled(pl.Callback):
    """Profiles the last meta-steps of a run and writes the seconds of each part into the run folder."""

    def __init__(self) -> None:
        self._profiler = cProfile.Profile()
        self._whole = 0.0
        self._started = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, once the run is warm."""
        if trainer.global_step >= trainer.max_steps - MEASURED:
            self._started = time.perf_counter()
            self._profiler.enable()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the clock."""
        if self._started:
            self._profiler.disable()
            self._whole += time.perf_counter() - self._started

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was found."""
        stats = pstats.Stats(self._profiler).stats  # type: ignore[attr-defined]

        def spent(part: tuple[str, str]) -> float:
            found = [entry[3] for (path, _, name), entry in stats.items() if path.endswith(part[0]) and name == part[1]]
            return sum(found) / MEASURED

        seconds = {name: spent(part) for name, part in PARTS.items()}
        seconds["teacher and inner optimizer, backward"] = spent(BACKWARD) - seconds[LEARNER[1]]
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
        f"Means over the last {MEASURED} meta-steps of a short run, under Python's profiler. `mnist` and `cifar10` "
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
