"""Ground-truth accuracies of architectures: from a table, or measured by full training and cached."""

import csv
import hashlib
import json
import math
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.data import TensorData
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.data_settings import data_settings
from gtn_lightning.nas.full_training import FullTraining
from gtn_lightning.nas.spaces import Architecture, SearchSpace

LOCK_TIMEOUT = 60.0
"""Seconds that a process waits for others that write to the same cache."""


class Accuracies(ABC):
    """Accuracies after full training that can be asked for."""

    @abstractmethod
    def accuracies(self, space: SearchSpace, architectures: Sequence[Architecture]) -> Tensor:
        """Return accuracies between 0 and 1, float64 ``[architectures, seeds]``.

        Raises:
            RecipeError: an architecture's accuracy is not known and cannot be measured.
        """

    @abstractmethod
    def seconds(self, space: SearchSpace, architectures: Sequence[Architecture]) -> float:
        """Return how many seconds the trainings of these architectures took, as far as that is known."""


class Reference(ABC):
    """Accuracies after full training, with which proxies are compared, as a recipe configures them."""

    @abstractmethod
    def candidates(
        self, space: SearchSpace, count: int, generator: torch.Generator, held_out: float | None = None
    ) -> list[Architecture]:
        """Return different architectures at random whose accuracy is known or can be measured.

        Args:
            space: the search space.
            count: number of architectures.
            generator: a CPU generator.
            held_out: take them from this share of the space only, see `SearchSpace.is_held_out`; None for all of it.

        Raises:
            RecipeError: there are fewer.
        """

    @abstractmethod
    def bind(self, data: TensorData, device: torch.device | str = "cpu") -> Accuracies:
        """Return the accuracies on a data module, which is set up; networks are trained on the device."""


class TableReference(Reference, Accuracies):
    """Accuracies from a CSV file.

    Two forms are read: one row per architecture, with one or more columns of accuracies; or, where there is a column
    ``seed``, one row per training. For an architecture that is not in the table, an isomorphic one's accuracy is
    returned. A column ``seconds``, where there is one, holds the durations of the trainings.

    Args:
        path: the file.
        columns: the columns of accuracies; more than one count as more than one seed.
        key: the column of architectures.
        percent: accuracies are in per cent.

    Raises:
        RecipeError: the file cannot be read, or a column is missing or holds something other than accuracies: numbers
            from 0 to 1, or from 0 to 100 where they are in per cent.
    """

    def __init__(
        self, path: str, columns: Sequence[str] = ("accuracy",), key: str = "architecture", percent: bool = False
    ) -> None:
        if not columns:
            raise RecipeError("TableReference: columns is empty: give at least one")
        self.path = path
        self.columns = list(columns)
        self.key = key
        self.percent = percent
        try:
            # Some programs write a byte order mark, which is not part of the first column's name.
            with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise RecipeError(f"TableReference: {path} cannot be read ({error}): give a CSV file") from error
        whole = 100.0 if percent else 1.0
        self._table: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}
        for number, row in enumerate(rows, start=2):
            missing = [column for column in (key, *self.columns) if row.get(column) is None]
            if missing:
                raise RecipeError(
                    f"TableReference: {path} has no column {missing[0]!r} in line {number}; it has "
                    f"{', '.join(filter(None, row))}: set key and columns"
                )
            values = [self._number(row[column], number, column, whole) / whole for column in self.columns]
            seconds = self._number(row.get("seconds") or "0", number, "seconds", math.inf)
            if row[key] in self._table and "seed" not in row:
                raise RecipeError(
                    f"TableReference: {path} has {row[key]!r} again in line {number}: remove one, or add a column seed "
                    "for rows of several trainings"
                )
            self._table.setdefault(row[key], []).extend(values)
            self._seconds[row[key]] = self._seconds.get(row[key], 0.0) + seconds
        if not self._table:
            raise RecipeError(f"TableReference: {path} holds no accuracies: expected a header and a line for each")
        if percent and max(map(max, self._table.values())) <= 0.01:
            raise RecipeError(f"TableReference: {path} has no accuracy above 1 per cent: set percent to false")
        self._canonical: dict[str, list[float]] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the architectures in the table, in its order."""
        return list(self._table)

    def architectures(self, space: SearchSpace) -> list[Architecture]:
        """Return the architectures in the table, in its order.

        Raises:
            RecipeError: one of them is not in the space.
        """
        return [self._parse(space, name) for name in self.names]

    def different(self, space: SearchSpace) -> Mapping[str, list[float]]:
        """Return the accuracies of the architectures in the table by canonical name, isomorphic ones once.

        Raises:
            RecipeError: one of them is not in the space.
        """
        if self._canonical is None:
            self._canonical = {space.canonical(one): self._table[one.name] for one in self.architectures(space)}
        return self._canonical

    def bind(self, data: TensorData, device: torch.device | str = "cpu") -> Accuracies:
        """Return the table itself, which needs no data."""
        return self

    def candidates(
        self, space: SearchSpace, count: int, generator: torch.Generator, held_out: float | None = None
    ) -> list[Architecture]:
        """Return architectures of the table, no two of them isomorphic; see the base class."""
        names = self.names
        drawn: dict[str, Architecture] = {}
        for place in torch.randperm(len(names), generator=generator).tolist():
            if len(drawn) == count:
                break
            architecture = self._parse(space, names[place])
            if held_out is None or space.is_held_out(architecture, held_out):
                drawn.setdefault(space.canonical(architecture), architecture)
        if len(drawn) < count:
            raise RecipeError(
                f"TableReference: {count} architectures wanted, but {self.path} has {len(drawn)} to rank: ask for fewer"
            )
        return list(drawn.values())

    def accuracies(self, space: SearchSpace, architectures: Sequence[Architecture]) -> Tensor:
        found = [self._find(space, architecture) for architecture in architectures]
        seeds = min((len(values) for values in found), default=1)
        return torch.tensor([values[:seeds] for values in found], dtype=torch.float64)

    def seconds(self, space: SearchSpace, architectures: Sequence[Architecture]) -> float:
        """Return the sum of their seconds in the table, where isomorphs do not count."""
        return sum(self._seconds.get(architecture.name, 0.0) for architecture in architectures)

    def digest(self) -> str:
        """Return a digest of the table's contents: SHA-256, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps([self._table, self._seconds]).encode()).hexdigest()

    def _number(self, text: str, line: int, column: str, most: float) -> float:
        """Return the number in a field, finite and from 0 to `most`."""
        where = f"TableReference: {self.path}, line {line}"
        expected = "seconds, 0 or more" if math.isinf(most) else f"accuracies from 0 to {most:.0f}"
        try:
            number = float(text)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}; expected {expected}") from error
        if 0 <= number <= most and math.isfinite(number):
            return number
        advice = "; set percent to true if they are in per cent" if most == 1 < number else ""
        raise RecipeError(f"{where}: {column} {text}, expected {expected}{advice}")

    def has(self, space: SearchSpace, architecture: Architecture) -> bool:
        """Return whether the table has the accuracy of an architecture, or of an isomorphic one."""
        return self._lookup(space, architecture) is not None

    def _find(self, space: SearchSpace, architecture: Architecture) -> list[float]:
        found = self._lookup(space, architecture)
        if found is None:
            raise RecipeError(f"TableReference: {self.path} has no accuracy of {architecture}: add it, or rank others")
        return found

    def _lookup(self, space: SearchSpace, architecture: Architecture) -> list[float] | None:
        if architecture.name in self._table:
            return self._table[architecture.name]
        return self.different(space).get(space.canonical(architecture))

    def _parse(self, space: SearchSpace, name: str) -> Architecture:
        try:
            return space.parse(name)
        except RecipeError as error:
            raise RecipeError(f"TableReference: {self.path} does not suit the space: {error}") from error


class MeasuredReference(Reference):
    """Accuracies measured by full training on real data, and cached in a file.

    The file is an SQLite database that several processes may write to at once; each training is written when it ends,
    so that a killed process loses only the one in progress. Accuracies count as different if the space, the settings of
    the training, the images, the labels or the augmentation differ. The device makes no difference: it changes
    rounding, as much as another seed would.

    Args:
        training: how a network is trained.
        seeds: number of trainings of each architecture, with seeds from zero.
        cache: the file.

    Raises:
        RecipeError: `seeds` is not positive.
    """

    def __init__(self, training: FullTraining, seeds: int = 2, cache: str = "runs/nas/reference.sqlite") -> None:
        if seeds < 1:
            raise RecipeError(f"MeasuredReference: seeds must be at least 1, got {seeds}")
        self.training = training
        self.seeds = seeds
        self.cache = cache

    def candidates(
        self, space: SearchSpace, count: int, generator: torch.Generator, held_out: float | None = None
    ) -> list[Architecture]:
        return space.draw(count, generator, held_out)

    def bind(self, data: TensorData, device: torch.device | str = "cpu") -> "MeasuredAccuracies":
        return MeasuredAccuracies(self, data, device)

    def attach(self, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Bind in place, for `measure`. To be removed with version 0.2: use `bind`."""
        self._attached = self.bind(data, device)

    def measure(self, space: SearchSpace, architecture: str, seed: int) -> float:
        """Measure by name what was attached. To be removed with version 0.2: use `bind`."""
        return self._attached.measure(space, space.parse(architecture), seed)


class MeasuredAccuracies(Accuracies):
    """Accuracies that are measured when they are asked for, unless the cache has them.

    Args:
        reference: how they are measured, and where they are cached.
        data: the data, set up.
        device: where networks are trained.
    """

    def __init__(self, reference: MeasuredReference, data: TensorData, device: torch.device | str = "cpu") -> None:
        self.training = reference.training
        self.seeds = reference.seeds
        self.cache = reference.cache
        self._data = data
        self._device = torch.device(device)

    def accuracies(self, space: SearchSpace, architectures: Sequence[Architecture]) -> Tensor:
        """Return accuracies, after measuring those that the cache does not have; see the base class."""
        found = [[self.measure(space, one, seed) for seed in range(self.seeds)] for one in architectures]
        return torch.tensor(found, dtype=torch.float64)

    def measure(self, space: SearchSpace, architecture: Architecture, seed: int) -> float:
        """Return the accuracy of one training, from the cache if it was measured before.

        Raises:
            RecipeError: the cache cannot be used, or an accuracy is not a number from 0 to 1.
        """
        key = (self._settings(space), architecture.name, seed)
        with self._database() as database:
            row = database.execute(
                "SELECT accuracy FROM trainings WHERE settings = ? AND architecture = ? AND seed = ?", key
            ).fetchone()
        if row is not None:
            return _accuracy(row[0], f"{self.cache} holds for {architecture}", "name another file")
        began = time.perf_counter()
        accuracy = _accuracy(
            self.training.accuracy(space, architecture, self._data, seed, self._device),
            f"{type(self.training).__name__} returned for {architecture}",
            "correct its method accuracy",
        )
        with self._database() as database:
            values = (*key, accuracy, time.perf_counter() - began)
            database.execute("INSERT OR IGNORE INTO trainings VALUES (?, ?, ?, ?, ?)", values)
        return accuracy

    def seconds(self, space: SearchSpace, architectures: Sequence[Architecture]) -> float:
        """Return how many seconds the trainings of these architectures took when they were measured."""
        settings = self._settings(space)
        with self._database() as database:
            rows = database.execute("SELECT architecture, seed, seconds FROM trainings WHERE settings = ?", (settings,))
            taken = {(architecture, seed): float(seconds) for architecture, seed, seconds in rows}
        return sum(taken.get((one.name, seed), 0.0) for one in architectures for seed in range(self.seeds))

    def _settings(self, space: SearchSpace) -> str:
        """Return a digest of everything that an accuracy depends on besides architecture and seed."""
        data = self._data
        facts = {
            "space": space.settings(),
            "training": describe(self.training, rebuilt=False),
            # `FullTraining` has its own batch size and order; a class derived from it may use those of the data. The
            # size of evaluation batches counts: some norms use the statistics of the batch in evaluation too.
            "data": data_settings(data, ("batch_size", "seed") if type(self.training) is FullTraining else ()),
            # Of a trainer around this measurement: the data module converts images to its precision.
            "precision": str(data.trainer.precision) if data.trainer is not None else "32-true",
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        path = Path(self.cache).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT)) as database, database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS trainings (settings TEXT, architecture TEXT, seed INTEGER, "
                    "accuracy REAL, seconds REAL, PRIMARY KEY (settings, architecture, seed))"
                )
                yield database
        except (OSError, sqlite3.Error) as error:
            raise RecipeError(
                f"MeasuredReference: {self.cache} cannot be used as a cache ({error}): name another file"
            ) from error


def _accuracy(value: Any, what: str, advice: str) -> float:
    """Return an accuracy, or raise RecipeError if it is not a number from 0 to 1."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RecipeError(f"MeasuredReference: {what} the accuracy {value!r}, expected a number from 0 to 1: {advice}")
    return float(value)
