"""MNIST in a few images per class: learned ones beside real ones, on the ConvNet of the field's comparisons.

``gtn fit --config mnist_distil_1`` and ``gtn predict`` make a file; the hard-label one with
``--model.teacher.init_args.soft_labels=false``. Every file is compared as ``gtn compare --passes`` does. Random real
images, with one-hot labels or the best soft ones of an expert, are measured once per number of images, all real data
once.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.report import markdown_table, write_report
from gtn_lightning.distilled import read_distilled
from gtn_lightning.distilled.comparison import THE_END, Comparison, Row, compare
from gtn_lightning.distilled.learners import home_learners
from gtn_lightning.distilled.real import real_samples
from gtn_lightning.randomness import keyed_generator

REAL = ("random real subset", "random real subset, best soft labels")
"""The sources of real data of the same size."""

EXPERT_STEPS = (50, 100, 200)
"""Steps of the experts on all real data whose probabilities are tried as soft labels."""

LEARNED = "learned images, {} labels, as meta-trained"
"""Name of the rows of a file."""


def main() -> None:
    """Compare all files and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="synthetic.safetensors of mnist_distil_1 and others")
    parser.add_argument("--data", required=True, help="folder of MNIST in the hub's layout")
    parser.add_argument("--networks", type=int, default=2, help="fresh networks per source")
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 5], help="how often a file's batches come")
    parser.add_argument("--steps", type=int, default=400, help="most steps on all real data; 0 to leave it out")
    parser.add_argument("--page", default="distillation", help="name of the page in docs/results")
    parser.add_argument("--test", type=int, default=10_000, help="images of the test split, drawn at random")
    options = parser.parse_args()
    rows, seen, everything = [], set[int](), ""
    for path in options.files:
        data = read_distilled(path)
        per_class = data.samples // (data.classes or 1)
        kind = "soft" if data.targets.is_floating_point() else "hard"
        sources = ["synthetic"]
        if per_class not in seen:
            sources += REAL
        if options.steps and not everything:
            sources.append(THE_END)
        real = real_samples(data, options.data)
        drawn = torch.randperm(len(real.test.targets), generator=keyed_generator(0, "test"))[: options.test]
        real = replace(real, test=real.test.take(drawn))
        result = compare(
            data,
            real,
            options.networks,
            options.passes,
            learners=home_learners(data),
            sources=sources,
            expert_steps=EXPERT_STEPS,
            most_steps=options.steps,
            progress=partial(print, f"{path}:", flush=True),
        )
        per_epoch = data.steps * data.batch_size // data.samples
        for row in result.rows:
            if row.source == THE_END:
                everything = result.metric.text(torch.cat(scores_of(result, row)[:1]))
                continue
            name = LEARNED.format(kind) if row.source == "synthetic" else row.source
            for passes, scores in zip(result.passes, scores_of(result, row), strict=True):
                cells = [str(per_class), name, str(passes * per_epoch), str(passes * data.steps)]
                rows.append([*cells, result.metric.text(scores)])
                print(" | ".join(rows[-1]), flush=True)
        seen.add(per_class)
    rows.sort(key=lambda row: (int(row[0]), int(row[2])))
    if everything:
        rows.append(["all", f"all real data, at most {options.steps} steps of 64", "", "", everything])
    header = ["images per class", "trained on", "epochs", "steps", "test accuracy"]
    write_report(
        options.page,
        "MNIST: images per class: " + ", ".join(map(str, sorted(seen))),
        markdown_table(header, rows),
        f"ConvNet-3: three blocks of 128 convolutions, instance norm, ReLU and average pooling. {options.networks} "
        "never-seen networks (mean and standard deviation; one for all real data), scored on "
        f"{options.test:,} random images of the test split, without augmentation. "
        "The learned images have their learned rate in the first pass; everything else has the best of four constant "
        f"ones by validation accuracy. The soft labels of real images are those of an expert after "
        f"{', '.join(map(str, EXPERT_STEPS))} steps, whichever teach best. {made(options.files)}",
    )


def scores_of(result: Comparison, row: Row) -> list[torch.Tensor]:
    """Return a row's scores ``[networks]`` of the only architecture, by number of passes."""
    return [row.scores[result.home[0], passes] for passes in result.passes]


def made(files: Sequence[Path]) -> str:
    """Return what the files cost."""
    costs = []
    for path in files:
        card = read_distilled(path).card
        costs.append(f"{card.made['meta_steps']:,} meta-steps, {card.made['seconds'] / 60:.0f} min")
    return (
        f"Meta-training on one core beside other work, seed 0, in the order of the command's files: {'; '.join(costs)}."
    )


if __name__ == "__main__":
    main()
