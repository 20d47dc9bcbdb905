"""Tables of numbers and categories, from a file, a data frame, or scikit-learn's bundled data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from gtn_lightning.data.columns import check_columns, encode_inputs, encode_targets, statistics
from gtn_lightning.data.hold_back import hold_back
from gtn_lightning.data.in_memory import InMemoryData
from gtn_lightning.data.reports import Documents, Normalizes
from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.files import is_file

if TYPE_CHECKING:
    from pandas import DataFrame

BUNDLED = ("breast_cancer", "diabetes", "iris", "wine")
"""Tables that come with scikit-learn."""


class Rows(NamedTuple):
    """Standardized inputs, float32 ``[N, D]``, and targets: classes, int64 ``[N]``, or numbers, float32 ``[N, K]``."""

    inputs: Tensor
    targets: Tensor


class TableSplits(NamedTuple):
    """The split for the meta-loss, the one to select the checkpoint, the one to report; and the number of classes."""

    train: Rows
    val: Rows
    test: Rows
    classes: int | None


class TableData(InMemoryData, Normalizes, Documents):
    """A table of numeric and categorical columns, with one or more target columns.

    Numeric columns are standardized by the training split's mean and standard deviation; columns of text, categories
    or Booleans are one-hot encoded. The splits are random, the same in every run, and stratified if the target is a
    class.

    Args:
        path: a CSV or Parquet file, a pandas ``DataFrame``, or the name of one of scikit-learn's bundled tables:
            breast_cancer, diabetes, iris, wine. Write ``./NAME`` for a file of such a name.
        target: the column to predict, or several numeric columns; the bundled tables have a default.
        predicts: ``classes`` or ``numbers``; ``auto`` takes text, categories, Booleans and whole numbers as classes.
        ignore: columns to leave out, such as row numbers.
        val_share: share of the rows for validation.
        test_share: share of the rows for testing.
        batch_size: real rows per meta-loss, in each process.
        eval_batch_size: rows in a batch of validation and testing.
        seed: seed of the order of the training rows.

    Attributes:
        shape: ``(D,)``, the shape of an encoded row.
        columns: the names of the encoded row's values.
        mean, std: what was subtracted from an encoded row, and what it was then divided by, ``[D]`` each.
        target_mean, target_std: the same of numbers to predict, ``[K]`` each.
        class_names: the values of the target that the classes 0, 1, ... stand for; None if numbers are predicted.

    Raises:
        RecipeError: if a value is out of range; from ``setup``, if the table cannot be read or used.

    Examples:
        >>> from gtn_lightning.data import TableData
        >>> data = TableData("wine")
        >>> data.setup()
        >>> data.shape, data.classes
        ((13,), 3)
    """

    samples_name = "rows"

    def __init__(
        self,
        path: Any,
        target: str | list[str] | None = None,
        predicts: Literal["auto", "classes", "numbers"] = "auto",
        ignore: str | list[str] | None = None,
        val_share: float = 0.2,
        test_share: float = 0.2,
        batch_size: int = 64,
        eval_batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        if predicts not in ("auto", "classes", "numbers"):
            raise RecipeError(f"data.predicts must be auto, classes or numbers, got {predicts!r}")
        if not (0 < val_share < 1 and 0 < test_share < 1 and val_share + test_share < 1):
            raise RecipeError(
                f"data.val_share and data.test_share must be above 0 and below 1 together, got {val_share} and "
                f"{test_share}"
            )
        self.path = path
        self.target = target
        self.predicts = predicts
        self.ignore = ignore
        self.val_share = val_share
        self.test_share = test_share

    def load(self) -> TableSplits:
        """Read the table, encode its columns as numbers, and split its rows."""
        frame, target = self._read()
        ignore = _listed(self.ignore)
        check_columns(frame, target, ignore, self._name)
        targets = encode_targets(frame[target], self.predicts, self._name)
        inputs = encode_inputs(frame[[name for name in frame.columns if name not in (*target, *ignore)]], self._name)
        train, val, test = self._rows(targets.values, targets.classes)
        mean, std = statistics(inputs.values[train])
        # One-hot columns are not standardized.
        self.mean, self.std = torch.where(inputs.numeric, mean, 0.0), torch.where(inputs.numeric, std, 1.0)
        self.columns, self.class_names = inputs.names, targets.classes
        rows, values = ((inputs.values - self.mean) / self.std).float(), targets.values
        if targets.classes is None:
            self.target_mean, self.target_std = statistics(values[train])
            values = ((values - self.target_mean) / self.target_std).float()
        parts = [Rows(rows[chosen], values[chosen]) for chosen in (train, val, test)]
        return TableSplits(parts[0], parts[1], parts[2], None if targets.classes is None else len(targets.classes))

    def document(self) -> dict[str, Any]:
        """Return source, columns and classes of the table; a data frame has no source."""
        source = str(self.path) if isinstance(self.path, str | Path) else None
        names = None if self.class_names is None else [str(name) for name in self.class_names]
        raw = "the values of the columns in this order; categories as columns of zeros and ones"
        return {
            "source": source, "license": None, "raw": raw, "columns": list(self.columns), "class_names": names,
        }  # fmt: skip

    def normalize(self, inputs: Tensor) -> Tensor:
        """Return the rows unchanged: ``load`` has standardized them."""
        return inputs

    def normalization(self) -> dict[str, Tensor]:
        """Return what is subtracted from an encoded row, and what it is divided by, by the names in exported files."""
        inputs = {"normalize_center": self.mean, "normalize_scale": self.std}
        if self.class_names is not None:
            return inputs
        return inputs | {"target_center": self.target_mean, "target_scale": self.target_std}

    @property
    def shape(self) -> tuple[int]:
        """``(D,)``, the shape of an encoded row."""
        return (len(self.splits[0].inputs[0]),)

    @property
    def classes(self) -> int | None:
        """Number of classes, None if numbers are predicted."""
        classes: int | None = self.splits[3]
        return classes

    @property
    def _name(self) -> str:
        return repr(self.path) if isinstance(self.path, str) else f"the {type(self.path).__name__}"

    def _read(self) -> tuple["DataFrame", list[str]]:
        """Return the table, and the names of its targets."""
        import pandas  # takes half a second to import

        target = _listed(self.target)
        if isinstance(self.path, pandas.DataFrame):
            frame = self.path
        elif self.path in BUNDLED:
            from sklearn import datasets  # takes a second to import

            frame = getattr(datasets, f"load_{self.path}")(as_frame=True).frame
            target = target or ["target"]
        else:
            frame = self._read_file(pandas)
        if not target:
            raise RecipeError(
                f"data.target must name the column to predict; {self._name} has {', '.join(map(str, frame.columns))}"
            )
        if not len(frame):
            raise RecipeError(f"data.path: {self._name} has no rows")
        return frame, target

    def _read_file(self, pandas: Any) -> "DataFrame":
        path = Path(str(self.path)).expanduser()
        suffix = path.suffix.lower()
        if suffix not in (".csv", ".parquet") or not is_file(path):
            raise RecipeError(
                f"data.path must be a file that ends in .csv or .parquet, or one of the bundled tables "
                f"{', '.join(BUNDLED)}, got {self.path!r}"
            )
        try:
            # An open file, so that pandas neither opens a URL nor guesses a compression.
            with path.open("rb") as file:
                # Read whole: in chunks, pandas may give the values of one column several types.
                frame: DataFrame = (
                    pandas.read_csv(file, low_memory=False) if suffix == ".csv" else pandas.read_parquet(file)
                )
        except Exception as error:
            raise RecipeError(f"data.path: {self.path!r} cannot be read: {first_line(error)}") from error
        return frame

    def _rows(self, targets: Tensor, classes: list[Any] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows for training, validation and testing."""
        count, least = len(targets), 1 if classes else 2
        test_size, val_size = (round(share * count) for share in (self.test_share, self.val_share))
        if min(test_size, val_size) < least:
            raise RecipeError(
                f"data.path: {self._name} has {count} rows, too few for data.val_share and data.test_share: expected "
                f"at least {least} to validate and {least} to test on"
            )
        labels = targets if classes else torch.zeros(count, dtype=torch.int64)
        if classes and count - test_size - val_size < len(classes):
            raise RecipeError(
                f"data.target: {self._name} has {len(classes)} different values in {count} rows, too many classes to "
                "keep a training row of each; for amounts, set data.predicts=numbers"
            )
        rest, test = hold_back(labels, test_size, "test")
        train, val = hold_back(labels[rest], val_size, "validation")
        return rest[train], rest[val], test


def _listed(names: Any) -> list[Any]:
    """Return one name or several as a list, None as an empty one."""
    if names is None:
        return []
    return list(names) if isinstance(names, list | tuple | set) else [names]
