"""What a plan needs to know of one's own data: kind, shape, classes, sizes of the splits."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gtn_lightning.data import DigitsData, ImageData, TableData
from gtn_lightning.data.decoding import to_eight_bits
from gtn_lightning.data.images import TEST_NAMES
from gtn_lightning.data.sources import open_dataset
from gtn_lightning.data.table import BUNDLED
from gtn_lightning.errors import RecipeError

LARGEST = 64
"""Height or width above which images are scaled down: more pixels make meta-training slow."""

SCALED = 32
"""Height and width to which larger images, and images of different sizes, are scaled."""

SMALLEST = 4
"""Least height and width of images, which convolutions halve twice."""

SEEN = 500
"""Images of a split, about, that are looked at to find out whether all have one size and are gray."""


@dataclass(frozen=True)
class Facts:
    """One's own data."""

    name: str
    """A short name, for folders."""
    kind: Literal["images", "rows"]
    """Whether the inputs are images or rows of a table."""
    predicts: Literal["classes", "numbers"]
    """What is predicted."""
    shape: tuple[int, ...]
    """Shape of one input."""
    outputs: int
    """Number of classes, or of numbers to predict."""
    train: int
    """Number of samples to train on."""
    data: dict[str, Any]
    """The data module: class and arguments."""

    def text(self) -> str:
        """Return the facts in one line."""
        size = "x".join(map(str, self.shape))
        what = (
            f"{self.outputs} classes"
            if self.predicts == "classes"
            else f"{self.outputs} number{'s' * (self.outputs > 1)}"
        )
        return f"{self.train:,} {self.kind} of {size}, {what}"


OPTIONS = {"path": "DATA", "target": "--target", "predicts": "--predicts", "ignore": "--ignore", "size": "--size"}
"""What ``gtn distil`` calls the keys of a data module."""


def facts_of(
    path: str,
    target: str | None = None,
    size: int | None = None,
    seed: int = 0,
    predicts: Literal["auto", "classes", "numbers"] = "auto",
    ignore: list[str] | None = None,
) -> Facts:
    """Look at data.

    Args:
        path: a folder of images, a name on the Hugging Face hub, a CSV or Parquet file, the name of a table bundled
            with scikit-learn, or ``digits``.
        target: the column of a table that is to be predicted.
        size: height and width to which images are scaled; None to scale only large images and those of several sizes.
        seed: seed of the order of the training data.
        predicts: whether the target of a table is a class or a number.
        ignore: columns of a table to leave out.

    Raises:
        RecipeError: if there is no such data, or it cannot be used.
    """
    is_table = path in BUNDLED or Path(path).suffix.lower() in (".csv", ".parquet")
    of_tables = {"target": target, "predicts": None if predicts == "auto" else predicts, "ignore": ignore}
    for option, value in ({"size": size} if is_table else of_tables).items():
        if value is not None:
            kind, is_one = ("images", "is a table") if is_table else ("tables", "is none")
            raise RecipeError(f"--{option} is for {kind}, and {path} {is_one}: leave it out")
    if size is not None and size < 1:
        raise RecipeError(f"--size must be at least 1, got {size}")
    try:
        if is_table:
            return _table(path, seed, {key: value for key, value in of_tables.items() if value is not None})
        return _digits(size, seed) if path == "digits" else _images(path, size, seed)
    except RecipeError as error:
        named = re.sub(r"\bdata\.(\w+)", lambda key: OPTIONS.get(key[1], key[0]), str(error))
        raise RecipeError(named) from error


def _digits(size: int | None, seed: int) -> Facts:
    if size is not None:
        raise RecipeError("--size is for images of your own, and digits have 8x8 pixels: leave it out")
    module = DigitsData(seed=seed)
    module.setup()
    count = len(module.splits[0][1])
    return Facts("digits", "images", "classes", (1, 8, 8), 10, count, _described(module, seed=seed))


def _table(path: str, seed: int, options: dict[str, Any]) -> Facts:
    given: dict[str, Any] = {"path": path, **options}
    module = TableData(**given, batch_size=1, seed=seed)
    module.setup()
    rows, classes = module.splits[0], module.splits[3]
    count = len(rows.inputs)
    outputs = classes or (rows.targets.shape[1] if rows.targets.ndim > 1 else 1)
    arguments = {**given, "batch_size": min(256, count), "seed": seed}
    name = Path(path).stem
    predicts: Literal["classes", "numbers"] = "classes" if classes else "numbers"
    return Facts(name, "rows", predicts, tuple(rows.inputs.shape[1:]), outputs, count, _described(module, **arguments))


def _images(path: str, size: int | None, seed: int) -> Facts:
    dataset, folders = open_dataset(path, None)
    if "train" not in dataset:
        raise RecipeError(f"{path} has the splits {', '.join(dataset)}, expected train: name the folder so")
    module = ImageData(path)
    train = dataset["train"]
    column = module.image_column_of(train)
    if len(train.features) == 1:
        raise RecipeError(f"{path} has images without classes, expected two or more: use folders CLASS/IMAGE")
    sizes, gray = set(), True
    for split in dataset.values():
        rows = range(0, len(split), max(1, len(split) // SEEN))
        for table in split.select(rows).select_columns([column]).with_format("arrow").iter(SEEN):
            for value in table.column(column).to_pylist():
                picture = to_eight_bits(train.features[column], value, path, folders)
                sizes.add(picture.size)
                gray = gray and picture.mode == "L"
    if size is None and (len(sizes) > 1 or max(max(each) for each in sizes) > LARGEST):
        size = SCALED
    width, height = (size, size) if size else next(iter(sizes))
    if min(width, height) < SMALLEST:
        raise RecipeError(
            f"{path} has images of {width}x{height} pixels, expected at least {SMALLEST}x{SMALLEST}: set --size=8"
        )
    has_test = any(name in dataset for name in TEST_NAMES)
    label_column = module.label_column_of(train)
    present = len(set(train[label_column]))
    classes = getattr(train.features[label_column], "num_classes", None) or present
    # Every class keeps an image to train on.
    count, spare = len(train), len(train) - present
    if spare < (1 if has_test else 2):
        raise RecipeError(
            f"{path} has {count} images of {present} classes to train on, too few to hold some back: add images of "
            "every class"
        )
    test = 0 if has_test else max(1, min(2000, count // 5, spare // 2))
    val = max(1, min(1000, count // 5, spare - test))
    left = count - val - test
    arguments: dict[str, Any] = {"path": path, "val_size": val, "batch_size": min(256, left), "seed": seed}
    if test:
        arguments["test_size"] = test
    if size:
        arguments["size"] = size
    name = Path(path).resolve().name if Path(path).exists() else path.rpartition("/")[2]
    shape = (1 if gray else 3, height, width)
    return Facts(name or "images", "images", "classes", shape, int(classes), left, _described(module, **arguments))


def _described(module: Any, **arguments: Any) -> dict[str, Any]:
    return {"class_path": type(module).__name__, "init_args": arguments}
