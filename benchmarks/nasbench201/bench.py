"""NAS-Bench-201 on CIFAR-10: the table of accuracies, the images, reduced networks, and the halves of the cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from gtn_lightning.data import ImageData
from gtn_lightning.nas import Proxy, Scorer, TableReference
from gtn_lightning.nas.spaces import Architecture, NASBench201
from gtn_lightning.randomness import keyed_generator

HELD_OUT = 0.5
"""Share of the cells, isomorphic ones together, that nothing is learned from: neither teachers, regressions nor
settings. All reported correlations are over cells of this share."""

COLUMN = "cifar10_test_200ep"
TWELVE = "cifar10_val_12ep"

VALIDATION = 2000
"""Images of the training split held back, on the first of which a network is scored."""


@dataclass(frozen=True)
class Reduction:
    """How the benchmark's networks are reduced."""

    size: int = 16
    """Height and width that the images are scaled to."""
    channels: int = 8
    """Of the first stage; 16 in the benchmark."""
    cells: int = 1
    """In each stage; 5 in the benchmark."""

    @property
    def words(self) -> str:
        """What a table calls it."""
        cells = "1 cell" if self.cells == 1 else f"{self.cells} cells"
        return f"{self.size}x{self.size}, {self.channels} channels, {cells} a stage"

    def __str__(self) -> str:
        return f"{self.size}px-{self.channels}ch-{self.cells}cell"


FULL = Reduction(32, 16, 5)
"""The benchmark's own networks."""


class Bench:
    """The table, the images and the split of the cells into halves.

    Args:
        table: the CSV file of accuracies.
        data: CIFAR-10 on the hub or in a local folder.
        device: where networks run.
    """

    def __init__(self, table: str, data: str, device: str = "cpu") -> None:
        self.table = TableReference(table, [COLUMN], "arch", percent=True)
        self.twelve = TableReference(table, [TWELVE], "arch", percent=True)
        self.path = data
        self.device = device
        self._data: dict[int, ImageData] = {}
        names = NASBench201((3, 32, 32), 10)
        order = torch.randperm(len(self.table.names), generator=keyed_generator(0, "nasbench201")).tolist()
        different: dict[str, Architecture] = {}
        for place in order:
            cell = names.parse(self.table.names[place])
            different.setdefault(names.canonical(cell), cell)
        again = {names.canonical(cell): cell for cell in map(names.parse, self.table.names)}
        self.twins = {cell.name: again[key] for key, cell in different.items() if again[key].name != cell.name}
        """Another cell of the table with the same network up to isomorphism, trained with other seeds, by name."""
        self.reported = [cell for cell in different.values() if names.is_held_out(cell, HELD_OUT)]
        """Different cells of the held-out half, in random order."""
        self.known = [cell for cell in different.values() if not names.is_held_out(cell, HELD_OUT)]
        """Different cells of the other half, in random order."""

    @cached_property
    def best_tenth(self) -> list[Architecture]:
        """The tenth of the reported half with the highest accuracies, the best first."""
        order = (-self.accuracies(self.reported)).argsort(stable=True).tolist()
        return [self.reported[place] for place in order[: len(order) // 10]]

    def data(self, size: int) -> ImageData:
        """Return CIFAR-10 with images of a size, set up."""
        if size not in self._data:
            made = ImageData(self.path, val_size=VALIDATION, size=None if size == 32 else size)
            made.prepare_data()
            made.setup()
            self._data[size] = made
        return self._data[size]

    def space(self, reduction: Reduction) -> NASBench201:
        """Return the space of reduced networks."""
        return NASBench201((3, reduction.size, reduction.size), 10, reduction.cells, reduction.channels)

    def accuracies(self, cells: Sequence[Architecture]) -> torch.Tensor:
        """Return the test accuracies after 200 epochs, float64 ``[cells]``."""
        return self.table.accuracies(self.space(Reduction()), cells).mean(dim=1)

    def bind(self, proxy: Proxy, reduction: Reduction) -> Scorer:
        """Return a proxy on the reduced networks and images."""
        return proxy.bind(self.space(reduction), self.data(reduction.size), self.device)
