"""Writes random images with labels in the hub's layout, for trials without a data set."""

import argparse
from pathlib import Path

import datasets
import numpy as np


def main() -> None:
    """Write a training and a test split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=28, help="height and width")
    parser.add_argument("--channels", type=int, default=1, choices=[1, 3])
    parser.add_argument("--images", type=int, default=400, help="images per split")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    names = [str(number) for number in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for seed, split in enumerate(("train", "test")):
        shape = options.images, options.size, options.size, options.channels
        images = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
        rows = {"image": list(images.squeeze(-1) if options.channels == 1 else images)}
        labels = [number % 10 for number in range(options.images)]
        table = datasets.Dataset.from_dict({**rows, "label": labels}, features=features)
        table.to_parquet(options.folder / f"{split}-00000-of-00001.parquet")


if __name__ == "__main__":
    main()
