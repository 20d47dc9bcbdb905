"""Autoencoders of several architectures, taught by synthetic images, beside real ones, and probes of their codes."""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import data_of, fit_once
from benchmarks.unlabeled import probed, score
from gtn_lightning import GTN
from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.data import InMemoryData
from gtn_lightning.learners import Autoencoder, ConvAutoencoder
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.tasks import Autoencoding
from gtn_lightning.teacher_file import read_meta_training
from gtn_lightning.teachers import RealData, Teacher
from gtn_lightning.teaching import teach, teach_at_best_rate

RATES = [0.001, 0.003, 0.01, 0.03, 0.1]
"""Rates of the real-data baseline, of which the best on validation data counts, for every learner."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "digits_autoencoder": {
        "48 units, met": partial(Autoencoder, hidden=[48], code=8),
        "64 and 32 units, never met": partial(Autoencoder, hidden=[64, 32], code=8),
        "convolutions, never met": partial(ConvAutoencoder, width=16, depth=2, code=8),
    },
    "mnist_autoencoder": {
        "128 units, met": partial(Autoencoder, hidden=[128], code=16),
        "256 units, met": partial(Autoencoder, hidden=[256], code=16),
        "256 and 64 units, never met": partial(Autoencoder, hidden=[256, 64], code=16),
        "convolutions, never met": partial(ConvAutoencoder, width=16, depth=2, code=16),
    },
}
"""Learners of each recipe."""

SEEDS = {"digits_autoencoder": 3, "mnist_autoencoder": 1}
"""Number of each recipe's meta-seeds; a run on MNIST takes some ten minutes."""


def compared(gtn: GTN, data: InMemoryData, make: Any, learners: int) -> dict[str, list[list[float]]]:
    """Return the metrics of learners that are untrained, taught by synthetic data, and by as much real data."""
    task, steps = gtn.task, gtn.inner_loop.steps
    assert isinstance(task, Autoencoding)
    real, tuning = RealData(), data.some("val", 1000, 0)
    real.attach({"inputs": data.some("train", 10_000, 0)[0]})
    passes = ShuffledPasses(steps, gtn.curriculum.batch_size, images=real.size)
    found: dict[str, list[list[float]]] = {"untrained": [], "synthetic": [], "real": []}
    for number in range(learners):
        torch.manual_seed(1000 + number)
        learner = make(shape=task.shape)
        generator = keyed_generator(1, "autoencoders", number)
        with torch.no_grad():
            requests = gtn.curriculum.requests(generator, torch.device("cpu"))
        teacher: Teacher = gtn.teacher
        taught = teach(learner, task, teacher, requests, gtn.inner_optimizer, [0, steps], "remat")
        _, baseline = teach_at_best_rate(
            learner,
            task,
            real,
            passes.requests(generator, torch.device("cpu")),
            gtn.inner_optimizer,
            [steps],
            RATES,
            tuning,
            "remat",
        )
        for name, snapshot in (("untrained", taught[0]), ("synthetic", taught[steps]), ("real", baseline[steps])):
            found[name].append(score(task, learner, snapshot, data))
    return found


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    parser.add_argument("--data", help="a local copy of MNIST, instead of the hub's")
    parser.add_argument("--seeds", type=int, help="meta-seeds of each recipe, instead of its own number")
    parser.add_argument("--learners", type=int, default=8, help="learners of every architecture")
    parser.add_argument("--output", type=Path, default=Path("runs/autoencoders"), help="where the runs are kept")
    options = parser.parse_args()
    rows = []
    for recipe in options.recipes:
        own = [f"--data.init_args.path={options.data}"] if options.data and recipe.startswith("mnist") else []
        runs = []
        for seed in range(options.seeds or SEEDS[recipe]):
            file = fit_once(recipe, seed, options.output, own)
            runs.append((GTN.from_teacher(file), data_of(file), read_meta_training(file) or {}))
        seconds = statistics.mean(spent["seconds"] for _, _, spent in runs)
        task = runs[0][0].task
        assert isinstance(task, Autoencoding)
        images, labels = runs[0][1].split("test")
        raw = probed(runs[0][1].normalize(images), labels, task.classes or 0)
        rows.append(
            [
                f"`{recipe}`, meta-seeds: {len(runs)}, {seconds:.0f} s",
                "raw pixels",
                "",
                *(f"{100 * value:.1f}" for value in raw),
                "",
            ]
        )
        for name, make in ARCHITECTURES[recipe].items():
            found = [compared(gtn, data, make, options.learners) for gtn, data, _ in runs]
            ratios = [
                statistics.mean(row[0] for row in one["synthetic"]) / statistics.mean(row[0] for row in one["real"])
                for one in found
            ]
            for source in ("untrained", "real", "synthetic"):
                every = torch.tensor([one[source] for one in found]).flatten(0, 1)
                mean, std = every.mean(0), every.std(0)
                cells = [f"{mean[0]:.3f} ± {std[0]:.3f}"]
                cells += [f"{100 * mean[place]:.1f} ± {100 * std[place]:.1f}" for place in (1, 2)]
                last = ", ".join(f"{ratio:.2f}" for ratio in ratios) if source == "synthetic" else ""
                rows.append([name, source, *cells, last])
    heading = ["autoencoder", "trained on", "error", "probe, %", "probe with 1 % of labels, %"]
    write_report(
        "unsupervised",
        "Data without labels",
        markdown_table([*heading, "error by real data's, per seed"], rows),
        "On the test split, after the recipe's inner steps. Mean and standard deviation over the meta-seeds x "
        f"{options.learners} learners. Real: as many steps of as many real images, at the "
        f"best of {len(RATES)} rates, chosen on validation data for every learner. Errors are of normalized pixels. "
        "The probes are ridge regressions, fitted on half of the test split and scored on the other half. The seconds "
        "are those of meta-training.",
    )


if __name__ == "__main__":
    main()
