"""The space of cells that the GTN paper searches."""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.learners.classifier import ImageClassifier, check_positive, image_sizes
from gtn_lightning.learners.norms import classifier, conv, image_norm
from gtn_lightning.nas.spaces.base import Architecture, Choice, SearchSpace
from gtn_lightning.nas.spaces.cells import check_cell_space, relu_conv_norm

_OPERATIONS = (
    *("identity", "conv_1x1", "conv_3x3", "conv_1x3_3x1", "conv_7x1_1x7"),
    *(f"{kind}_pool_{size}x{size}" for kind in ("max", "avg") for size in (2, 3, 5)),
)
_KINDS = ("normal", "reduction")
_SIDES = ("left", "right")

_Term = tuple[int, str]  # a state's number and the operation on it
_Node = tuple[_Term, _Term]
_Cell = tuple[_Node, ...]


class MicroSpace(SearchSpace):
    """A normal and a reduction cell: the space in which the GTN paper searches.

    Such et al., "Generative Teaching Networks" (arXiv 1912.07768), with the cells of Luo et al., "Neural Architecture
    Optimization" (arXiv 1808.07233) and Pham et al., "Efficient Neural Architecture Search" (arXiv 1802.03268). A
    cell's states are the outputs of the two cells before it, 0 being the older, and then its nodes. Each node takes two
    earlier states, applies one of eleven operations to each, and adds the results. The cell's output is the
    concatenation of the nodes that are no other node's input.

    Both inputs are first brought to the cell's channels, by ReLU, 1x1 convolution and norm, and to one size. In a
    reduction cell the channels double, and operations on the inputs have stride 2. Images are halved without pooling
    (for an identity of stride 2, and for an older input that is larger than the younger) by two 1x1 convolutions of
    stride 2 with half of the channels each, the second one shifted by a pixel. Odd sizes are rounded up. A cell whose
    output is not used is not part of the network.

    Members are named as in ``0.conv_3x3+1.identity,2.max_pool_2x2+0.conv_1x1|0.identity+1.identity,...``: the normal
    cell, then the reduction cell, with their nodes, each with two states and their operations. Decisions are named as
    in ``normal.0.left.input`` and ``normal.0.left.op``.

    Args:
        image_shape: (channels, height, width) of the images; the recipe of a GTN may leave it to its task.
        classes: number of classes; the recipe of a GTN may leave it to its task.
        cells: normal cells in each of the three stages; a reduction cell is between two stages.
        channels: channels of a node in the first stage; each further stage has twice as many.
        nodes: nodes of a cell.
        norm: ``"batch"`` (statistics of the batch, in evaluation too) or ``"batch_running"`` (ordinary BatchNorm).

    Raises:
        RecipeError: an unknown norm, a size below 1, or images too small to be halved twice.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        cells: int = 2,
        channels: int = 16,
        nodes: int = 5,
        norm: str = "batch",
    ) -> None:
        self.image_shape, self.classes = image_sizes("MicroSpace", image_shape, classes)
        check_cell_space(self.image_shape, cells, channels, norm)
        check_positive("nodes", nodes)
        self.cells = cells
        self.channels = channels
        self.nodes = nodes
        self.norm = norm
        decisions: dict[str, Sequence[Choice]] = {}
        for kind in _KINDS:
            for node in range(nodes):
                for side in _SIDES:
                    decisions[f"{kind}.{node}.{side}.input"] = list(range(node + 2))
                    decisions[f"{kind}.{node}.{side}.op"] = list(_OPERATIONS)
        self.decisions: Mapping[str, Sequence[Choice]] = decisions

    def __len__(self) -> int:
        """Return the number of members, or the largest number that Python's ``len`` may return if there are more."""
        return min(super().__len__(), sys.maxsize)

    def name(self, choices: Mapping[str, Choice]) -> str:
        """Return for instance ``0.conv_3x3+1.identity,...|0.identity+1.max_pool_2x2,...``."""
        return _name(self._read(choices))

    def choices(self, name: str) -> dict[str, Choice]:
        choices: dict[str, Choice] = {}
        for kind, cell in zip(_KINDS, name.split("|"), strict=False):
            for node, terms in enumerate(cell.split(",")):
                for side, term in zip(_SIDES, terms.split("+"), strict=False):
                    state, _, operation = term.partition(".")
                    choices[f"{kind}.{node}.{side}.input"] = int(state) if state.isdecimal() else state
                    choices[f"{kind}.{node}.{side}.op"] = operation
        return choices

    def build(self, architecture: Architecture) -> nn.Module:
        normal, reduction = self._read(architecture.choices)
        return _Network(self.image_shape, self.classes, normal, reduction, self.cells, self.channels, self.norm)

    def canonical(self, architecture: Architecture) -> str:
        """Return the first member that differs only in the order of nodes and of a node's two inputs."""
        return _name([_sorted(cell) for cell in self._read(architecture.choices)])

    def _read(self, choices: Mapping[str, Choice]) -> list[_Cell]:
        def term(key: str) -> _Term:
            return int(choices[f"{key}.input"]), str(choices[f"{key}.op"])

        return [
            tuple((term(f"{kind}.{node}.left"), term(f"{kind}.{node}.right")) for node in range(self.nodes))
            for kind in _KINDS
        ]


def _name(cells: Sequence[_Cell]) -> str:
    return "|".join(
        ",".join("+".join(f"{state}.{operation}" for state, operation in node) for node in cell) for cell in cells
    )


def _sorted(cell: _Cell) -> _Cell:
    """Return the first of the isomorphic cells, in the order in which members are enumerated.

    Nodes are numbered one after the other: each time the first, by order, of those whose inputs have numbers. Nodes
    with the same inputs and operations tie for the first, and then each is tried.
    """
    numberings: list[dict[int, int]] = [{0: 0, 1: 1}]  # each from a cell's states to the new numbers
    found: list[_Node] = []
    for _ in cell:
        nexts = [
            (_renumbered(node, numbers), {**numbers, state: len(numbers)})
            for numbers in numberings
            for state, node in enumerate(cell, start=2)
            if state not in numbers and all(source in numbers for source, _ in node)
        ]
        first = min((node for node, _ in nexts), key=_order)
        found.append(first)
        numberings = [numbers for node, numbers in nexts if node == first]
    return tuple(found)


def _renumbered(node: _Node, numbers: Mapping[int, int]) -> _Node:
    (one, first), (other, second) = node
    terms = (numbers[one], first), (numbers[other], second)
    return terms if _term_order(terms[0]) <= _term_order(terms[1]) else (terms[1], terms[0])


def _term_order(term: _Term) -> tuple[int, int]:
    return term[0], _OPERATIONS.index(term[1])


def _order(node: _Node) -> tuple[tuple[int, int], tuple[int, int]]:
    return _term_order(node[0]), _term_order(node[1])


class _Shape(NamedTuple):
    """The shape of a state's images."""

    channels: int
    rows: int
    columns: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    def halved(self) -> "_Shape":
        return self._replace(rows=(self.rows + 1) // 2, columns=(self.columns + 1) // 2)


class _Network(ImageClassifier):
    """Three stages of normal cells with reduction cells between them."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        normal: _Cell,
        reduction: _Cell,
        cells: int,
        channels: int,
        norm: str,
    ) -> None:
        super().__init__(image_shape, classes)
        in_channels, rows, columns = self.image_shape
        shape = _Shape(channels, rows, columns)
        self.stem = nn.Sequential(conv(in_channels, channels, norm, "linear"), image_norm(norm, channels, shape.pixels))
        layout = [*[normal] * cells, reduction, *[normal] * cells, reduction, *[normal] * cells]
        # If normal cells take the older input alone, the output of every other one is not used.
        taken = {len(layout) - 1}
        for place in reversed(range(len(layout))):
            if place in taken:
                taken.update(place - 2 + state for state in _inputs(layout[place]))
        self.cells = nn.ModuleDict()
        before = [shape, shape]
        for place, cell in enumerate(layout):
            inner = before[1]._replace(channels=channels)
            outer = inner
            if place in (cells, 2 * cells + 1):
                channels *= 2
                inner = inner._replace(channels=channels)
                outer = inner.halved()
            if place in taken:
                self.cells[str(place)] = _CellModule(cell, before, inner, outer, norm)
            before = [before[1], outer._replace(channels=channels * len(_outputs(cell)))]
        self.last = nn.ReLU()
        self.classifier = classifier(before[1].channels, classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W]."""
        outputs = self.stem(images)
        states = {-2: outputs, -1: outputs}
        for name, cell in self.cells.items():
            place = int(name)
            outputs = cell([states.get(place - 2), states.get(place - 1)])
            states[place] = outputs
        logits: Tensor = self.classifier(self.last(outputs).mean(dim=(2, 3)))
        return logits


class _CellModule(nn.Module):
    """A cell.

    Args:
        nodes: its nodes.
        before: the shapes of its two inputs.
        inner: the shape that the inputs are brought to.
        outer: the shape of its nodes: `inner`, or half as large.
        norm: the norm's name.
    """

    def __init__(self, nodes: _Cell, before: Sequence[_Shape], inner: _Shape, outer: _Shape, norm: str) -> None:
        super().__init__()
        self.nodes = nodes
        self.outputs = _outputs(nodes)
        self.inputs = nn.ModuleDict({str(state): _aligned(before[state], inner, norm) for state in _inputs(nodes)})
        self.operations = nn.ModuleList(
            _operation(operation, inner if state < 2 else outer, outer, norm)
            for node in nodes
            for state, operation in node
        )

    def forward(self, before: Sequence[Tensor | None]) -> Tensor:
        """Return the output; an input that the cell does not take may be None."""
        states = {int(state): align(before[int(state)]) for state, align in self.inputs.items()}
        for place, ((one, _), (other, _)) in enumerate(self.nodes):
            left, right = self.operations[2 * place], self.operations[2 * place + 1]
            states[place + 2] = left(states[one]) + right(states[other])
        return torch.cat([states[state] for state in self.outputs], dim=1)


def _inputs(cell: _Cell) -> list[int]:
    """Return which of the two inputs, 0 and 1, a cell takes."""
    return sorted({state for node in cell for state, _ in node if state < 2})


def _outputs(cell: _Cell) -> list[int]:
    """Return the nodes that are no other node's input."""
    used = {state for node in cell for state, _ in node}
    return [state for state in range(2, len(cell) + 2) if state not in used]


def _aligned(given: _Shape, wanted: _Shape, norm: str) -> nn.Module:
    if given.pixels > wanted.pixels:
        return _Halving(given.channels, wanted, norm)
    return relu_conv_norm(given.channels, wanted.channels, norm, wanted.pixels, kernel_size=1)


def _operation(name: str, given: _Shape, wanted: _Shape, norm: str) -> nn.Module:
    stride = 2 if wanted.pixels < given.pixels else 1
    if name == "identity":
        return nn.Identity() if stride == 1 else _Halving(given.channels, wanted, norm)
    kind, _, size = name.partition("_")
    if kind == "conv":
        return nn.Sequential(
            nn.ReLU(),
            *_convolutions(size, wanted.channels, stride, norm),
            image_norm(norm, wanted.channels, wanted.pixels),
        )
    kernel = int(name[-1])
    odd = given.rows % 2 == 1 or given.columns % 2 == 1
    if kernel == 2 and stride == 2:
        return nn.MaxPool2d(2, ceil_mode=odd) if kind == "max" else nn.AvgPool2d(2, ceil_mode=odd)
    pooling: nn.Module = nn.MaxPool2d(kernel, stride, kernel // 2)
    if kind == "avg":
        pooling = nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
    return pooling if kernel > 2 else nn.Sequential(pooling, _WithoutFirst())


def _convolutions(size: str, channels: int, stride: int, norm: str) -> list[nn.Module]:
    """Return the convolutions of an operation: of ``3x3`` one, of ``1x3_3x1`` two."""
    layers: list[nn.Module] = []
    for part in size.split("_"):
        rows, columns = map(int, part.split("x"))
        if rows == columns:
            layers.append(conv(channels, channels, norm, "relu", kernel_size=rows, stride=stride))
            continue
        strides = (1 if rows == 1 else stride, 1 if columns == 1 else stride)  # each side is halved by one of the two
        layer = nn.Conv2d(channels, channels, (rows, columns), strides, (rows // 2, columns // 2), bias=False)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layers else "relu")
        layers.append(layer)
    return layers


class _WithoutFirst(nn.Module):
    """Removes the first row and column, which 2x2 pooling with padding on both sides adds."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 1:, 1:]


class _Halving(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 side by side, the second shifted by a pixel, and norm."""

    def __init__(self, in_channels: int, wanted: _Shape, norm: str) -> None:
        super().__init__()
        half = wanted.channels // 2  # the channels have been doubled at least once where images are halved
        self.relu = nn.ReLU()
        self.even = conv(in_channels, half, norm, "relu", kernel_size=1, stride=2)
        self.odd = conv(in_channels, half, norm, "relu", kernel_size=1, stride=2)
        self.norm = image_norm(norm, wanted.channels, wanted.pixels)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of half the size, rounded up."""
        active = self.relu(images)
        shifted = F.pad(active, (-1, 1, -1, 1))  # keeps the size, so that both round up
        outputs: Tensor = self.norm(torch.cat([self.even(active), self.odd(shifted)], dim=1))
        return outputs
