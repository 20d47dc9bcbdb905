"""Full trainings of networks of the ConvNet grid on MNIST, the ground truth for `benchmarks.nas`.

Trainings are cached, so the command can be stopped and continued, and run in several processes with different shares.
"""

import argparse
import csv
from pathlib import Path

import torch

from gtn_lightning.data import ImageData
from gtn_lightning.nas.full_training import FullTraining
from gtn_lightning.nas.learners import SpaceLearners
from gtn_lightning.nas.reference import MeasuredReference
from gtn_lightning.nas.spaces import Architecture, ConvNetGrid
from gtn_lightning.randomness import keyed_generator

TABLE = Path(__file__).with_name("nas_reference.csv")

HELD_OUT = 0.5
"""Share of the grid held out of meta-training, from which the ranked networks are drawn."""

TRAININGS = {"ranked": 2, "known": 1}
"""Trainings per network of each part. The ranked networks have two, to measure the noise; for the known ones, more
networks help more than more trainings."""


def main() -> None:
    """Train; a process without a share of the work also writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST on the hub or in a local folder")
    parser.add_argument("--ranked", type=int, default=100, help="networks that are ranked")
    parser.add_argument("--known", type=int, default=64, help="others, known before anything is ranked")
    parser.add_argument("--parts", nargs="+", default=list(TRAININGS), choices=TRAININGS, help="which to train")
    parser.add_argument("--share", default="1/1", help="as 1/2: the first of two processes' share of the work")
    options = parser.parse_args()
    space, data = load_grid_and_data(options.data)
    names = {"ranked": ranked(space, options.ranked), "known": known(space, options.known)}
    work = [(part, name, seed) for part in options.parts for seed in range(TRAININGS[part]) for name in names[part]]
    references = {}
    for part in options.parts:
        reference = MeasuredReference(FullTraining(steps=1000, batch_size=64, lr=0.01), TRAININGS[part])
        references[part] = reference.bind(data)
    share, shares = map(int, options.share.split("/"))
    rows = []
    for part, architecture, seed in work[share - 1 :: shares]:
        accuracy = references[part].measure(space, architecture, seed)
        seconds = references[part].seconds(space, [architecture]) / TRAININGS[part]
        rows.append([part, architecture.name, str(seed), f"{accuracy:.4f}", f"{seconds:.1f}"])
        print(*rows[-1], flush=True)
    if shares > 1:
        return
    with TABLE.open(newline="", encoding="utf-8") as file:
        header, *others = csv.reader(file)
    kept = [row for row in others if row[0] not in options.parts]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept, *rows])
    for part, measured in references.items():
        print(f"{part}: {measured.seconds(space, names[part]):.0f} seconds on {torch.get_num_threads()} threads")


def load_grid_and_data(path: str) -> tuple[ConvNetGrid, ImageData]:
    """Return the grid and MNIST, set up."""
    data = ImageData(path)
    data.prepare_data()
    data.setup()
    return ConvNetGrid(data.image_shape, data.classes), data


def ranked(space: ConvNetGrid, count: int) -> list[Architecture]:
    """Return random networks of the held-out part of the grid."""
    return space.draw(count, keyed_generator(0, "ranked"), held_out=HELD_OUT)


def known(space: ConvNetGrid, count: int) -> list[Architecture]:
    """Return random networks of the other part."""
    learners = SpaceLearners(space, HELD_OUT)
    generator = keyed_generator(0, "known")
    drawn: dict[Architecture, None] = {}
    while len(drawn) < count:
        drawn[learners.draw(generator)] = None
    return list(drawn)


if __name__ == "__main__":
    main()
