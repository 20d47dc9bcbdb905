"""What a plan needs to know of one's own data: kind, shape, classes, sizes of the splits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gtn_lightning.data import DigitsData, ImageData, TableData
from gtn_lightning.data.decoding import to_eight_bits
from gtn_lightning.data.sources import open_dataset
from gtn_lightning.data.table import BUNDLED
from gtn_lightning.errors import RecipeError

LARGEST = 64
"""Height or width above which images are scaled down: more pixels make meta-training slow."""

SCALED = 32
"""Height and width to which larger images, and images of different sizes, are scaled."""

SEEN = 50
"""Images that are looked at to find out whether all have one size."""


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
        what = f"{self.outputs} classes" if self.predicts == "classes" else f"{self.outputs} numbers"
        return f"{self.train:,} {self.kind} of {size}, {what}"


def facts_of(path: str, target: str | None = None, size: int | None = None, seed: int = 0) -> Facts:
    """Look at data.

    Args:
        path: a folder of images, a name on the Hugging Face hub, a CSV or Parquet file, the name of a table bundled
            with scikit-learn, or ``digits``.
        target: the column of a table that is to be predicted.
        size: height and width to which images are scaled; None to scale only large images and those of several sizes.
        seed: seed of the order of the training data.

    Raises:
        RecipeError: if there is no such data, or it cannot be used.
    """
    if path == "digits":
        module = DigitsData(seed=seed)
        module.setup()
        count = len(module.splits[0][1])
        return Facts("digits", "images", "classes", (1, 8, 8), 10, count, _described(module, seed=seed))
    if path in BUNDLED or Path(path).suffix.lower() in (".csv", ".parquet", ".pq"):
        if size is not None:
            raise RecipeError(f"--size is for images, and {path} is a table: leave it out")
        return _table(path, target, seed)
    if target is not None:
        raise RecipeError(f"--target is for tables, and {path} is none: leave it out")
    return _images(path, size, seed)


def _table(path: str, target: str | None, seed: int) -> Facts:
    given: dict[str, Any] = {"path": path, **({} if target is None else {"target": target})}
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
    feature, sizes = train.features[column], set()
    rows = range(0, len(train), max(1, len(train) // SEEN))
    gray = True
    for table in train.select(rows).select_columns([column]).with_format("arrow").iter(SEEN):
        for value in table.column(column).to_pylist():
            picture = to_eight_bits(feature, value, path, folders)
            sizes.add(picture.size)
            gray = gray and picture.mode == "L"
    if size is None and (len(sizes) > 1 or max(max(each) for each in sizes) > LARGEST):
        size = SCALED
    width, height = (size, size) if size else next(iter(sizes))
    has_test = any(name in dataset for name in ("test", "validation", "valid"))
    count = len(train)
    val = max(1, min(1000, count // 5))
    arguments: dict[str, Any] = {"path": path, "val_size": val, "batch_size": 256, "seed": seed}
    if not has_test:
        arguments["test_size"] = max(1, min(2000, count // 5))
    if size:
        arguments["size"] = size
    left = count - val - arguments.get("test_size", 0)
    arguments["batch_size"] = max(1, min(256, left))
    labels = train.features[module.label_column_of(train)]
    classes = getattr(labels, "num_classes", None)
    if classes is None:
        classes = len(set(train[module.label_column_of(train)]))
    name = Path(path).resolve().name if Path(path).exists() else path.rpartition("/")[2]
    shape = (1 if gray else 3, height, width)
    return Facts(name or "images", "images", "classes", shape, int(classes), left, _described(module, **arguments))


def _described(module: Any, **arguments: Any) -> dict[str, Any]:
    return {"class_path": type(module).__name__, "init_args": arguments}
