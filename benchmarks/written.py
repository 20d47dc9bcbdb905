"""Networks written by hand in plain PyTorch, trained on exported digits, beside as many steps of real data.

Every network is trained on the files by `gtn_lightning.replay` alone, and on real digits with each of three optimizers
at several rates, of which the best on the test split counts: real data gets the benefit of the doubt.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import markdown_table, write_report
from benchmarks.written_networks import NEVER_MET, written_networks
from gtn_lightning import replay
from gtn_lightning.data import DigitsData
from gtn_lightning.distilled import read_distilled
from gtn_lightning.distilled.real import Samples
from gtn_lightning.distilled.scores import Metric, card_of
from gtn_lightning.inner_loop import LARS
from gtn_lightning.randomness import keyed_generator, keyed_rng

RATES = {"SGD": (0.01, 0.03, 0.1, 0.3), "Adam": (0.001, 0.003, 0.01, 0.03), "LARS": (0.02, 0.05, 0.1, 0.2)}
"""The rates of each optimizer on real data; SGD has the momentum 0.9, LARS 0.5."""

Batches = list[Samples]


def main() -> None:
    """Train all networks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="files of synthetic digits, one per meta-seed")
    parser.add_argument("--networks", type=int, default=10, help="fresh networks of each kind")
    options = parser.parse_args()
    sets = [read_distilled(path) for path in options.files]
    data = DigitsData()
    data.prepare_data()
    data.setup()
    train, test = (Samples(sets[0].prepare(x), y) for x, y in (data.split("train"), data.split("test")))
    accuracy = Metric("accuracy")
    steps, size = sets[0].steps, sets[0].batch_size

    def real_batches(number: int) -> Batches:
        rows = torch.randperm(len(train.inputs), generator=keyed_generator(0, "written", number))
        return [train.take(part) for part in rows[: steps * size].split(size)]

    rows = []
    for name, make in written_networks(1, 8, data.classes).items():
        best, how = torch.zeros(options.networks), ""
        for optimizer, rates in RATES.items():
            for rate in rates:
                scores = [
                    accuracy.of(trained(fresh(make, n), real_batches(n), optimizer, rate), test)
                    for n in range(options.networks)
                ]
                if sum(scores) > float(best.sum()):
                    best, how = torch.tensor(scores), f"{optimizer} {rate}"
        taught = torch.zeros(len(sets), options.networks)
        for row, each in enumerate(sets):
            for number in range(options.networks):
                network = fresh(make, number)
                replay.train(network, each.tensors, card_of(each))
                taught[row, number] = accuracy.of(network, test)
        above = sum(float(scores.mean()) > float(best.mean()) for scores in taught)
        met = "never met" if name in NEVER_MET else "met or alike"
        lowest = f"{100 * float(taught.mean(1).min()):.1f}"
        rows.append([name, met, text(taught.flatten()), lowest, f"{text(best)} ({how})", f"{above} of {len(sets)}"])
        print(" | ".join(rows[-1]), flush=True)
    header = [
        "network",
        "in meta-training",
        "synthetic, %",
        "worst file, %",
        "real, % (at its best)",
        "files above real",
    ]
    seconds = ", ".join(f"{each.card.made['seconds']:.0f}" for each in sets)
    write_report(
        "written",
        "Digits: networks written by hand",
        markdown_table(header, rows),
        f"Test accuracy after {steps} steps of {size} images, mean and standard deviation over {len(sets)} files (meta-"
        f"seeds) x {options.networks} fresh networks in evaluation mode. Real: as many steps of real images at the "
        "best of three optimizers and four rates each, chosen on the test split. Seconds of meta-training: "
        f"{seconds}.",
    )


def fresh(make: Callable[[], nn.Module], number: int) -> nn.Module:
    """Return a new network, a function of its number."""
    with keyed_rng(0, "written", number, device=torch.device("cpu")):
        return make()


def trained(network: nn.Module, batches: Batches, optimizer: str, rate: float) -> nn.Module:
    """Train a network on real batches."""
    if optimizer == "LARS":
        inner = LARS(rate, 0.5)
        how = {"name": "LARS", "hyperparameters": ["lr", "momentum", "eps"], "nesterov": False}
        card = {"fields": ["inputs", "targets"], "loss": "cross_entropy", "optimizer": how}
        inputs, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        replay.train(network, {"inputs": inputs, "targets": targets, **inner.schedules(len(batches))}, card)
        return network
    parameters = network.train().parameters()
    chosen = torch.optim.SGD(parameters, rate, 0.9) if optimizer == "SGD" else torch.optim.Adam(parameters, rate)
    for inputs, targets in batches:
        chosen.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        chosen.step()
    return network


def text(scores: Tensor) -> str:
    """Return mean and standard deviation in per cent."""
    return f"{100 * float(scores.mean()):.1f} ± {100 * float(scores.std(correction=0)):.1f}"


if __name__ == "__main__":
    main()
