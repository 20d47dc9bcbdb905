"""Networks taught a self-supervised representation by synthetic images and targets, beside real ones, and probes."""

import argparse
import copy
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.report import markdown_table, write_sections
from benchmarks.runs import fit_once, module_of
from benchmarks.unlabeled import probed, score
from gtn_lightning import GTN
from gtn_lightning.curricula import Curriculum, ShuffledPasses
from gtn_lightning.data import RepresentationData
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.tasks import Representation
from gtn_lightning.teacher_file import read_meta_training, read_recipe
from gtn_lightning.teachers import RealData
from gtn_lightning.teaching import teach, teach_at_best_rate

RATES = [0.003, 0.01, 0.03, 0.1]
"""Rates of real data, of which the best on validation data counts, for every learner."""

LONGER = 5
"""How many times as many steps on the random subset, in a row of its own."""

CPU = torch.device("cpu")

Run = tuple[GTN, RepresentationData, dict[str, float]]
"""A meta-trained module, its data, and the cost of its meta-training."""


def learner_scores(gtn: GTN, data: RepresentationData, learners: int) -> dict[str, list[list[float]]]:
    """Return the metrics of the same new learners, untrained and trained on each source, ``[learners][3]`` each."""
    task, steps, size = gtn.task, gtn.inner_loop.steps, gtn.curriculum.batch_size
    assert isinstance(task, Representation)
    names = list(task.real_fields)
    train = dict(zip(names, data.some("train", 10_000, gtn.seed), strict=True))
    tuning = data.some("val", 1000, gtn.seed)
    count = gtn.curriculum.pool
    assert count is not None
    whole, subset = RealData(), RealData()
    whole.attach(train)
    subset.attach({name: part[:count] for name, part in train.items()})
    found: dict[str, list[list[float]]] = {}
    for number in range(learners):
        with keyed_rng(gtn.seed, "representations", number, device=CPU):
            learner = gtn.learners.sample(keyed_generator(gtn.seed, "representations", number))
        generator = keyed_generator(gtn.seed, "representations", number)

        def requests(curriculum: Curriculum, generator: torch.Generator = generator) -> Any:
            with torch.no_grad():
                return curriculum.requests(generator, CPU)

        mine = teach(learner, task, gtn.teacher, requests(gtn.curriculum), gtn.inner_optimizer, [0, steps], "remat")
        taught = {"untrained": mine[0], "synthetic": mine[steps]}
        for source, real, times in (("real", whole, 1), ("subset", subset, 1), ("longer", subset, LONGER)):
            passes = ShuffledPasses(times * steps, size, images=real.size)
            _, snapshots = teach_at_best_rate(
                learner,
                task,
                real,
                requests(passes),
                gtn.inner_optimizer,
                [times * steps],
                RATES,
                tuning,
                "remat",
            )
            taught[source] = snapshots[times * steps]
        for source, snapshot in taught.items():
            found.setdefault(source, []).append(score(task, learner, snapshot, data))
    return found


def taught_runs(recipe: str, options: argparse.Namespace) -> list[Run]:
    """Meta-train with every seed, unless that was done before; return the module, its data and its cost."""
    runs: list[Run] = []
    for seed in range(options.seeds):
        overrides = ["--trainer.accelerator=cpu", f"--data.init_args.cache={options.output / 'targets'}"]
        if options.data and recipe.startswith("mnist"):
            overrides.append(f"--data.init_args.data.init_args.path={options.data}")
        file = fit_once(recipe, seed, options.output, overrides)
        data = module_of(read_recipe(file).data)
        if runs:  # the images are the same, and are decoded once
            images = copy.copy(runs[0][1].data)
            images.seed = seed
            data = RepresentationData(images, data.target, data.cache)
        data.prepare_data()
        data.setup()
        runs.append((GTN.from_teacher(file), data, read_meta_training(file) or {}))
        print(f"{recipe}, seed {seed}: ready", file=sys.stderr)
    return runs


HEADING = [
    "trained on",
    "error",
    "probe, %",
    "probe with 1 % of labels, %",
    "synthetic is above in the probe by",
    "in that with 1 % by",
]


def report(runs: list[Run], learners: int) -> str:
    """Return a recipe's table, with what it is made of."""
    data = runs[0][1]
    found = [learner_scores(gtn, one, learners) for gtn, one, _ in runs]
    images, _, labels = data.split("test")
    pool = runs[0][0].curriculum.pool
    titles = {
        "untrained": "untrained network",
        "real": "real images, as many steps",
        "subset": f"{pool} random real images, as many steps",
        "longer": f"the same {pool}, {LONGER} times as many steps",
        "synthetic": f"{pool} synthetic images",
    }
    seconds = [statistics.mean(one.counts()["target_seconds"] for _, one, _ in runs)]
    seconds.append(statistics.mean(spent["seconds"] for _, _, spent in runs))
    raw = [f"{100 * value:.1f}" for value in probed(data.normalize(images), labels, data.classes)]
    tests = [(one.split("test"), one.classes) for _, one, _ in runs]
    fixed = torch.tensor([probed(features, given, classes) for (_, features, given), classes in tests])
    rows = [
        ["raw pixels", "", *raw, "", ""],
        ["target network", "0", *(cell(fixed[:, place], 100) for place in (0, 1)), "", ""],
    ]
    means = {name: torch.tensor([one[name] for one in found]).mean(1) for name in titles}  # [seeds, metrics]
    for name, title in titles.items():
        scores = means[name]
        cells = [cell(scores[:, 0], 1), cell(scores[:, 1], 100), cell(scores[:, 2], 100)]
        gains = [interval(100 * (means["synthetic"] - scores)[:, place]) for place in (1, 2)]
        rows.append([title, *cells, *(gains if name != "synthetic" else ["", ""])])
    return (
        f"Meta-seeds: {len(runs)}, each with a target network of its own ({seconds[0]:.0f} s), a meta-training "
        f"({seconds[1]:.0f} s) and {learners} never-seen learners.\n\n{markdown_table(HEADING, rows)}"
    )


def cell(values: Tensor, factor: int) -> str:
    """Return mean and standard deviation over the seeds."""
    digits = 3 if factor == 1 else 1
    return f"{factor * values.mean():.{digits}f} ± {factor * values.std(correction=int(len(values) > 1)):.{digits}f}"


def interval(differences: Tensor) -> str:
    """Return the mean of differences, one per seed, and the 95 % interval of Student's distribution."""
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return f"{mean:+.1f}"
    half = float(student.ppf(0.975, count - 1)) * float(differences.std()) / count**0.5
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    recipes = ["digits_representation", "mnist_representation"]
    parser.add_argument("--recipes", nargs="+", default=recipes, choices=recipes)
    parser.add_argument("--data", help="a local copy of MNIST, instead of the hub's")
    parser.add_argument("--seeds", type=int, default=3, help="meta-seeds, each with its own target network")
    parser.add_argument("--learners", type=int, default=4, help="learners per seed")
    parser.add_argument("--output", type=Path, default=Path("runs/representations"), help="where the runs are kept")
    options = parser.parse_args()
    sections = {recipe: report(taught_runs(recipe, options), options.learners) for recipe in options.recipes}
    write_sections(
        "representations",
        "Representations without labels",
        sections,
        "On the test split, after the recipe's inner steps. Mean and standard deviation over the meta-seeds of the "
        "mean of a seed's learners; then the mean difference of the same learners, and its 95 % interval by Student's "
        "distribution over the seeds. Real images have the target network's features as targets; each learner has the "
        f"best of {len(RATES)} rates, chosen on validation data. Errors are of standardized features. The probes are "
        "ridge regressions on what the networks return, fitted on half of the test split and scored on the other half.",
    )


if __name__ == "__main__":
    main()
