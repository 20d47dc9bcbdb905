"""The transfer matrix: families of learners taught by a teacher of one family, by one of six, and by real data.

Every cell is the accuracy on the test split of never-seen learners, each taught with the constant rate that serves it
best on the validation split.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.report import RESULTS, heat_map, markdown_table, write_report
from gtn_lightning import GTN
from gtn_lightning.curricula import Curriculum, ShuffledPasses
from gtn_lightning.data import ImageData
from gtn_lightning.inner_loop import Functional
from gtn_lightning.learners import MLP, ConvNet
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.teachers import RealData, Teacher
from gtn_lightning.teaching import teach_at_best_rate

RATES = (0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
"""Constant learning rates, of which every learner uses the best; momentum has the recipe's initial value."""

REAL_IMAGES = 20_000
"""Number of real training images, the first of the split."""

_conv = partial(ConvNet, image_shape=(1, 28, 28), classes=10, depth=2)
_mlp = partial(MLP, shape=(1, 28, 28), outputs=10, norm="none")
UNSEEN: dict[str, Callable[[], nn.Module]] = {
    "conv_batch_stride, 4x wide": partial(_conv, width=64, norm="batch", pooling="stride"),
    "conv_layer_average": partial(_conv, width=16, norm="layer", pooling="average"),
    "conv_instance_max": partial(_conv, width=16, norm="instance", pooling="max"),
    "linear": partial(_mlp, hidden=[]),
}
"""Families that are not used in meta-training."""


def main() -> None:
    """Measure every cell and write the matrix as a table and a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST on the hub or in a local folder")
    parser.add_argument(
        "--single", type=Path, default=None, help="teacher file of mnist_cpu; the newest run's if left out"
    )
    parser.add_argument("--mixture", type=Path, default=None, help="teacher file of mnist_transfer; the newest run's")
    parser.add_argument("--learners", type=int, default=3, help="never-seen learners per cell")
    options = parser.parse_args()
    single = GTN.from_teacher(options.single or newest("runs/mnist_cpu"))
    mixture = GTN.from_teacher(options.mixture or newest("runs/mnist_transfer"))
    data = ImageData(options.data)
    data.prepare_data()
    data.setup()
    seen = {name: family.sample for name, family in mixture.learners.families().items()}
    unseen = {name: (lambda generator, make=make: make()) for name, make in UNSEEN.items()}
    families = {**seen, **unseen}
    rows = {"meta-trained on conv_batch_stride": single, "meta-trained on six families": mixture, "real data": None}
    scores = torch.zeros(len(families), len(rows), options.learners)
    for column, gtn in enumerate(rows.values()):
        for row, sample in enumerate(families.values()):
            for number in range(options.learners):
                scores[row, column, number] = cell(gtn or mixture, sample, number, data, real=gtn is None)
            print(list(families)[row], "|", list(rows)[column], "|", f"{scores[row, column].mean():.3f}", flush=True)
    report(list(families), len(seen), list(rows), scores, mixture)


def newest(folder: str) -> Path:
    """Return the newest teacher file of a recipe's runs."""
    found = sorted(Path(folder).glob("*/teacher.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit(
            f"there is no teacher under {folder}: meta-train one first, or name one with --single or --mixture"
        )
    return found[-1]


def cell(gtn: GTN, sample: Callable[[torch.Generator], nn.Module], number: int, data: ImageData, real: bool) -> float:
    """Return the test accuracy of one learner taught with its best constant rate."""
    generator = keyed_generator(0, "transfer", number)
    with keyed_rng(0, "transfer", number, device=torch.device("cpu")):
        learner = sample(generator)
    teacher: Teacher = gtn.teacher
    curriculum: Curriculum = gtn.curriculum
    if real:
        teacher = baseline = RealData()
        train = data.splits.train
        inputs = data.normalize(train.images[:REAL_IMAGES])
        baseline.attach({"inputs": inputs, "targets": train.labels[:REAL_IMAGES]})
        curriculum = ShuffledPasses(gtn.inner_loop.steps, curriculum.batch_size, curriculum.classes, baseline.size)
    with torch.no_grad():
        requests = curriculum.requests(generator, torch.device("cpu"))
    val, test = data.splits.val, data.splits.test
    tuning = data.normalize(val.images[:2000]), val.labels[:2000]
    _, taught = teach_at_best_rate(
        learner, gtn.task, teacher, requests, gtn.inner_optimizer, [gtn.inner_loop.steps], RATES, tuning
    )
    metric, last = gtn.task.metrics()[0].make(), taught[gtn.inner_loop.steps]
    with torch.no_grad():
        for images, labels in zip(test.images.split(1000), test.labels.split(1000), strict=True):
            gtn.task.score(Functional(learner), last.params, last.buffers, (data.normalize(images), labels), [metric])
    return float(metric.compute())


def report(families: list[str], seen: int, columns: list[str], scores: torch.Tensor, gtn: GTN) -> None:
    """Write the table and the picture."""
    mean, spread = scores.mean(dim=2), scores.std(dim=2)
    names = [name + ("" if row < seen else " (never trained on)") for row, name in enumerate(families)]
    cells = [
        [name, *(f"{100 * m:.1f} ± {100 * s:.1f} %" for m, s in zip(mean[row], spread[row], strict=True))]
        for row, name in enumerate(names)
    ]
    images = gtn.inner_loop.steps * gtn.curriculum.batch_size
    write_report(
        "transfer",
        "MNIST: who can be taught by whom",
        markdown_table(["family of learners", *columns], cells) + "\n\n![transfer matrix](transfer.png)",
        f"Test accuracy after {gtn.inner_loop.steps} steps of {gtn.curriculum.batch_size} images ({images} in all), "
        f"mean and standard deviation over {scores.shape[2]} never-seen learners, each with the best of "
        f"{len(RATES)} constant rates by validation accuracy. Recipes `mnist_cpu` and `mnist_transfer`.",
    )
    picture(names, columns, mean, gtn.inner_loop.steps)


def picture(names: list[str], columns: list[str], mean: torch.Tensor, steps: int) -> None:
    """Draw mean accuracies, ``[families, columns]``."""
    figure = Figure(figsize=(8, 0.5 * len(names) + 1.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    shown = heat_map(axes, 100 * mean, names, [column.replace(" on ", " on\n") for column in columns], bright=60)
    shown.set_clim(0, 100)
    axes.set_title(f"Test accuracy in % after {steps} inner steps")
    figure.colorbar(shown, ax=axes)
    figure.savefig(RESULTS / "transfer.png")


if __name__ == "__main__":
    main()
