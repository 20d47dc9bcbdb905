"""Tables of numbers and categories, from a file, a data frame, or scikit-learn's bundled data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtn_lightning.data.hold_back import hold_back
from gtn_lightning.data.in_memory import InMemoryData
from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.files import is_file

if TYPE_CHECKING:
    from pandas import DataFrame, Series

BUNDLED = ("breast_cancer", "diabetes", "iris", "wine")
"""Tables that come with scikit-learn."""

MAX_CATEGORIES = 100
"""Maximum number of categories in a column; columns with more are likely names or row numbers."""

MAX_CLASSES = 1000
"""Maximum number of classes in the target; columns with more whole numbers are likely amounts."""


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


class TableData(InMemoryData):
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

    Raises:
        RecipeError: if a value is out of range; from ``setup``, if the table cannot be read or used.

    Example:
        >>> data = TableData("wine")
        >>> data.setup()
        >>> data.shape, data.classes
        ((13,), 3)
    """

    samples_name = "rows"

    def __init__(
        self,
        path: Any,
        target: str | Sequence[str] | None = None,
        predicts: Literal["auto", "classes", "numbers"] = "auto",
        ignore: Sequence[str] = (),
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
        frame, targets = self._read()
        for name in (*targets, *self.ignore):
            if name not in frame.columns:
                raise RecipeError(
                    f"data.{'target' if name in targets else 'ignore'}: {self._name} has no column {name!r}; it has "
                    f"{', '.join(map(str, frame.columns))}"
                )
        for name in frame.columns:
            if name not in self.ignore and (missing := int(frame[name].isna().sum())):
                raise RecipeError(
                    f"data.path: {self._name}: the column {name!r} has {missing} of {len(frame)} values missing: fill "
                    "them in, drop these rows, or name the column in data.ignore"
                )
        values, classes = self._targets(frame[targets])
        columns = [name for name in frame.columns if name not in (*targets, *self.ignore)]
        inputs, self.columns, numeric = self._inputs(frame[columns])
        labels = values if classes else torch.zeros(len(values), dtype=torch.int64)
        train, val, test = self._rows(labels)
        mean, std = statistics(inputs[train])
        # One-hot columns are not standardized.
        mean, std = torch.where(numeric, mean, 0.0), torch.where(numeric, std, 1.0)
        inputs = ((inputs - mean) / std).float()
        if not classes:
            mean, std = statistics(values[train])
            values = ((values - mean) / std).float()
        parts = [Rows(inputs[rows], values[rows]) for rows in (train, val, test)]
        return TableSplits(parts[0], parts[1], parts[2], classes)

    def prepare(self, splits: tuple[Any, ...]) -> None:
        """Do nothing: ``load`` has checked and standardized the splits."""

    def normalize(self, inputs: Tensor) -> Tensor:
        """Return the rows unchanged: ``load`` has standardized them."""
        return inputs

    @property
    def shape(self) -> tuple[int]:
        """``(D,)``, the shape of an encoded row."""
        return (len(self.splits[0].inputs[0]),)

    @property
    def classes(self) -> int | None:
        """Number of classes, None if numbers are predicted."""
        classes: int | None = self.splits[3]
        return classes

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Remove the augmentation key of training batches.

        Returns:
            Inputs ``[B, D]`` and targets, int64 ``[B]`` or float ``[B, K]``.
        """
        match batch:
            case [Tensor() as inputs, Tensor() as targets, int()]:
                return inputs, targets
        return batch

    @property
    def _name(self) -> str:
        return repr(self.path) if isinstance(self.path, str) else f"the {type(self.path).__name__}"

    def _read(self) -> tuple["DataFrame", list[str]]:
        """Return the table, and the names of its targets."""
        import pandas  # takes half a second to import

        targets = [self.target] if isinstance(self.target, str) else list(self.target or ())
        if isinstance(self.path, pandas.DataFrame):
            frame = self.path
        elif self.path in BUNDLED:
            from sklearn import datasets  # takes a second to import

            frame = getattr(datasets, f"load_{self.path}")(as_frame=True).frame
            targets = targets or ["target"]
        else:
            frame = self._read_file(pandas)
        if not targets:
            raise RecipeError(
                f"data.target must name the column to predict; {self._name} has {', '.join(map(str, frame.columns))}"
            )
        if not len(frame):
            raise RecipeError(f"data.path: {self._name} has no rows")
        return frame, targets

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
                frame: DataFrame = (pandas.read_csv if suffix == ".csv" else pandas.read_parquet)(file)
        except Exception as error:
            raise RecipeError(f"data.path: {self.path!r} cannot be read: {first_line(error)}") from error
        return frame

    def _targets(self, frame: "DataFrame") -> tuple[Tensor, int | None]:
        """Return classes, int64 ``[N]``, and their number; or numbers, float64 ``[N, K]``, and None."""
        from pandas.api import types

        first = frame.iloc[:, 0]
        numbers = all(types.is_numeric_dtype(frame[name]) and not _is_category(frame[name]) for name in frame.columns)
        whole = types.is_integer_dtype(first)
        if self.predicts == "numbers" or (self.predicts == "auto" and numbers and not whole):
            if not numbers:
                raise RecipeError(f"data.predicts is numbers, but the column {first.name!r} of {self._name} has none")
            values = torch.from_numpy(frame.to_numpy(np.float64).copy())
            _check_finite(values, list(map(str, frame.columns)), self._name)
            return values, None
        if len(frame.columns) > 1:
            raise RecipeError(
                f"data.target: expected one column of classes, got {len(frame.columns)}; for several numeric columns, "
                "set data.predicts=numbers"
            )
        codes, names = _codes(first)
        if not 2 <= len(names) <= MAX_CLASSES:
            raise RecipeError(
                f"data.target: the column {first.name!r} of {self._name} has {len(names)} values, expected 2 to "
                f"{MAX_CLASSES} classes; for amounts, set data.predicts=numbers"
            )
        return codes, len(names)

    def _inputs(self, frame: "DataFrame") -> tuple[Tensor, list[str], Tensor]:
        """Return inputs, float64 ``[N, D]``, the names of their columns, and a mask of those to standardize."""
        from pandas.api import types

        parts: list[Tensor] = []
        names: list[str] = []
        numeric: list[bool] = []
        for name in frame.columns:
            column = frame[name]
            if types.is_numeric_dtype(column) and not _is_category(column):
                parts.append(torch.from_numpy(column.to_numpy(np.float64).copy())[:, None])
                names.append(str(name))
                numeric.append(True)
            elif types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
                raise RecipeError(
                    f"data.path: {self._name}: the column {name!r} holds times: convert them to numbers, or name the "
                    "column in data.ignore"
                )
            else:
                codes, values = _codes(column)
                if len(values) > MAX_CATEGORIES:
                    raise RecipeError(
                        f"data.path: {self._name}: the column {name!r} has {len(values)} different values, expected "
                        f"at most {MAX_CATEGORIES} categories: name it in data.ignore, or convert it to numbers"
                    )
                parts.append(torch.nn.functional.one_hot(codes, len(values)).double())
                names += [f"{name}={value}" for value in values]
                numeric += [False] * len(values)
        if not parts:
            raise RecipeError(f"data.path: {self._name} has no columns to predict from")
        inputs = torch.cat(parts, dim=1)
        _check_finite(inputs, names, self._name)
        return inputs, names, torch.tensor(numeric)

    def _rows(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows for training, validation and testing."""
        counts = [round(share * len(labels)) for share in (self.test_share, self.val_share)]
        if min(counts) < 1:
            raise RecipeError(
                f"data.path: {self._name} has {len(labels)} rows, too few for data.val_share and data.test_share: "
                "expected at least one row to validate and one to test on"
            )
        rest, test = hold_back(labels, counts[0], "test")
        train, val = hold_back(labels[rest], counts[1], "validation")
        return rest[train], rest[val], test


def statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every column, ``[D]`` each, with 1 for the deviation of a constant column.

    Args:
        values: ``[N, D]``.
    """
    std = values.std(dim=0, correction=0)
    return values.mean(dim=0), torch.where(std > 0, std, 1.0)


def _is_category(column: "Series[Any]") -> bool:
    return bool(column.dtype.name in ("category", "bool", "boolean"))


def _codes(column: "Series[Any]") -> tuple[Tensor, list[Any]]:
    """Return the index of every value among the sorted different values, int64 ``[N]``, and these values."""
    values = sorted(column.unique().tolist(), key=lambda value: (str(type(value)), value))
    codes = {value: code for code, value in enumerate(values)}
    return torch.tensor([codes[value] for value in column.tolist()], dtype=torch.int64), values


def _check_finite(values: Tensor, names: list[str], source: str) -> None:
    for name, column in zip(names, values.unbind(1), strict=True):
        if wrong := int((~column.isfinite()).sum()):
            raise RecipeError(
                f"data.path: {source}: the column {name!r} has {wrong} of {len(column)} values that are infinite: "
                "correct them, or name the column in data.ignore"
            )
