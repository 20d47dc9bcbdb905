"""Which settings of a training raise its metasmoothness, and what that says of its meta-gradient.

A convolutional network is trained on digits, or on MNIST; the meta-parameters are the weights of the training examples.
One setting at a time is changed. Beside the metasmoothness stands what it is to foretell: whether the meta-gradient
ranks changes of a finite size, here random tenths of the examples left out, as trainings without them do.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import markdown_table, write_report
from gtn_lightning.data import DigitsData, ImageData
from gtn_lightning.inner_loop import SGD, Adam, Buffers, Functional, InnerOptimizer, Params, metasmoothness, unroll
from gtn_lightning.learners import ConvNet

LEFT_OUT = 0.1
"""Share of the examples that a perturbed training leaves out."""

Images = tuple[Tensor, Tensor]
"""Images and labels."""


@dataclass(frozen=True)
class Setting:
    """A way to train."""

    pooling: str = "max"
    activation: str = "relu"
    norm: str = "batch"
    divisor: float = 1.0
    """What logits are divided by."""
    batch_size: int = 50
    optimizer: Callable[[], InnerOptimizer] = lambda: Adam(lr=0.01)
    precision: torch.dtype = torch.float32


PLAIN = Setting()
CHANGES: dict[str, Setting] = {
    "as it stands: max pooling, ReLU, batch norm, Adam .01 with epsilon 1e-8, batches of 50": PLAIN,
    "average pooling": dataclasses.replace(PLAIN, pooling="average"),
    "strided convolutions": dataclasses.replace(PLAIN, pooling="stride"),
    "GELU": dataclasses.replace(PLAIN, activation="gelu"),
    "tanh": dataclasses.replace(PLAIN, activation="tanh"),
    "group norm": dataclasses.replace(PLAIN, norm="group"),
    "no norm": dataclasses.replace(PLAIN, norm="none"),
    "logits / 10": dataclasses.replace(PLAIN, divisor=10.0),
    "logits / 30": dataclasses.replace(PLAIN, divisor=30.0),
    "Adam's epsilon 1e-4": dataclasses.replace(PLAIN, optimizer=lambda: Adam(lr=0.01, eps=1e-4)),
    "Adam's epsilon 1e-2": dataclasses.replace(PLAIN, optimizer=lambda: Adam(lr=0.01, eps=1e-2)),
    "Adam .003": dataclasses.replace(PLAIN, optimizer=lambda: Adam(lr=0.003)),
    "SGD .1, momentum .9": dataclasses.replace(PLAIN, optimizer=lambda: SGD(lr=0.1, momentum=0.9)),
    "SGD .03, momentum .9": dataclasses.replace(PLAIN, optimizer=lambda: SGD(lr=0.03, momentum=0.9)),
    "batches of 10": dataclasses.replace(PLAIN, batch_size=10),
    "batches of 250": dataclasses.replace(PLAIN, batch_size=250),
    "double precision": dataclasses.replace(PLAIN, precision=torch.float64),
    "average pooling, GELU": dataclasses.replace(PLAIN, pooling="average", activation="gelu"),
    "average pooling, GELU, double precision": dataclasses.replace(
        PLAIN, pooling="average", activation="gelu", precision=torch.float64
    ),
    "average pooling, GELU, Adam's epsilon 1e-2": dataclasses.replace(
        PLAIN, pooling="average", activation="gelu", optimizer=lambda: Adam(lr=0.01, eps=1e-2)
    ),
    "average pooling, GELU, logits / 10, Adam's epsilon 1e-4": dataclasses.replace(
        PLAIN, pooling="average", activation="gelu", divisor=10.0, optimizer=lambda: Adam(lr=0.01, eps=1e-4)
    ),
    "average pooling, GELU, SGD .03, momentum .9": dataclasses.replace(
        PLAIN, pooling="average", activation="gelu", optimizer=lambda: SGD(lr=0.03, momentum=0.9)
    ),
}


def main() -> None:
    """Measure all settings and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="inner steps")
    parser.add_argument("--changes", type=int, default=16, help="trainings without a tenth of the examples")
    parser.add_argument("--step", type=float, nargs="+", default=[0.1, 0.01], help="sizes of the change of each weight")
    parser.add_argument("--mnist", metavar="PATH", help="MNIST, on the hub or in a local folder, instead of digits")
    parser.add_argument("--settings", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="NAME", help="rows")
    options = parser.parse_args()
    page, name = ("metasmoothness_mnist", "MNIST") if options.mnist else ("metasmoothness", "digits")
    data = ImageData(options.mnist) if options.mnist else DigitsData()
    data.prepare_data()
    data.setup()
    train, val, test = (some(data, split) for split in ("train", "val", "test"))
    rows, means, began = [], [], time.perf_counter()
    for setting in options.settings:
        found = [measured(CHANGES[setting], train, val, test, seed, options) for seed in range(options.seeds)]
        columns = torch.tensor(found, dtype=torch.float64)
        means.append(columns.mean(0).tolist())
        rows.append([setting, *(f"{m:.2f} ± {s:.2f}" for m, s in zip(columns.mean(0), columns.std(0), strict=True))])
        print(f"{time.perf_counter() - began:.0f} s: {', '.join(rows[-1])}", flush=True)
    smooth, ranked = list(zip(*means, strict=True))[: len(options.step)], [row[-2] for row in means]
    over_rows = [f"{rank_correlation(column, ranked):.2f}" for column in smooth]
    header = [f"metasmoothness, h = {step:g}" for step in options.step]
    write_report(
        page,
        f"Settings that make a training on {name} smooth in the weights of its examples",
        markdown_table(["setting", *header, "rank correlation with retraining", "test accuracy"], rows),
        f"Means and standard deviations over {options.seeds} seeds (initial parameters, batches, direction). "
        f"{len(train[1])} training images, {options.steps} inner steps of a `ConvNet` of two blocks of 8 channels. "
        "Metasmoothness: `gtn_lightning.inner_loop.metasmoothness`, for the weights of the examples, from 1 to 1 ± h "
        "and 1 ± 2h with random signs. Rank correlation: Spearman's, between the change of the validation loss that "
        f"the meta-gradient predicts and the true one, over {options.changes} trainings that each leave out a random "
        f"{LEFT_OUT:.0%} of the examples. Only what a row names is changed, and nothing is tuned to it "
        f"again.\n\nOver the {len(rows)} rows, Spearman's correlation of the metasmoothness with the rank "
        f"correlation is {' and '.join(over_rows)}, for h = {' and '.join(f'{step:g}' for step in options.step)}.",
    )


def some(data: DigitsData | ImageData, split: str) -> Images:
    """Return at most a thousand normalized images of a split, with their labels."""
    images, labels = data.split(split)
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:1000]
    return data.normalize(images[chosen]), labels[chosen]


def measured(
    setting: Setting, train: Images, val: Images, test: Images, seed: int, options: argparse.Namespace
) -> list[float]:
    """Return the metasmoothness for each step, the rank correlation with retraining, and the test accuracy."""
    torch.manual_seed(seed)
    train, val, test = ((images.to(setting.precision), labels) for images, labels in (train, val, test))
    images, labels = train
    network = Functional(
        ConvNet(
            (images.shape[1], images.shape[2], images.shape[3]),
            10,
            width=8,
            depth=2,
            norm=setting.norm,
            pooling=setting.pooling,
            activation=setting.activation,
        ).to(setting.precision)
    )
    start = network.init()
    drawn = options.steps * setting.batch_size
    orders = torch.cat([torch.randperm(len(labels)) for _ in range(drawn // len(labels) + 1)])
    rows = orders[:drawn].view(options.steps, setting.batch_size)

    def loss_fn(
        params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Buffers]:
        logits, buffers = network(params, buffers, inputs)
        return (weights * F.cross_entropy(logits / setting.divisor, targets, reduction="none")).mean(), buffers

    def trained(weights: Tensor) -> Params:
        batches = ((images[at], labels[at], weights[at]) for at in rows)
        return unroll(loss_fn, *start, batches, setting.optimizer(), mode="remat").params

    def logits_on(params: Params, inputs: Tensor) -> Tensor:
        logits: Tensor = network(params, start[1], inputs)[0]
        return logits / setting.divisor

    def val_loss(weights: Tensor) -> Tensor:
        return F.cross_entropy(logits_on(trained(weights), val[0]), val[1])

    signs = (torch.randint(2, labels.shape) * 2 - 1).to(images)
    smoothness = [metasmoothness(trained, lambda distance: 1 + distance * signs, step) for step in options.step]
    ones = torch.ones(len(labels), dtype=setting.precision, requires_grad=True)
    (gradient,) = torch.autograd.grad(val_loss(ones), ones)
    with torch.no_grad():
        accuracy = (logits_on(trained(ones.detach()), test[0]).argmax(1) == test[1]).double().mean()
        left_out = [torch.rand(len(labels)) < LEFT_OUT for _ in range(options.changes)]
        true = [float(val_loss(1 - out.to(images))) for out in left_out]
    predicted = [-float(gradient[out].sum()) for out in left_out]
    return [*smoothness, rank_correlation(predicted, true), 100 * float(accuracy)]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's correlation."""
    return float(spearmanr(one, other).statistic)


if __name__ == "__main__":
    main()
