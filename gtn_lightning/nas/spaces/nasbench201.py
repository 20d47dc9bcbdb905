"""The search space of NAS-Bench-201."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product

from torch import Tensor, nn

from gtn_lightning.learners.classifier import ImageClassifier, image_sizes
from gtn_lightning.learners.norms import classifier, conv, image_norm
from gtn_lightning.nas.spaces.base import Architecture, Choice, SearchSpace
from gtn_lightning.nas.spaces.cells import check_cell_space, relu_conv_norm

_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_NODES = 4
_EDGES = tuple((source, node) for node in range(1, _NODES) for source in range(node))
_OUTPUT = _NODES - 1
_PATHS = (((0, 3),), ((0, 1), (1, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 2), (2, 3)))

_Cell = tuple[str, ...]  # the operation of every edge, in the order of _EDGES


class NASBench201(SearchSpace):
    """The 15,625 cells of NAS-Bench-201, each as a network of the benchmark's form.

    Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search" (arXiv 2001.00326).
    A cell has four nodes. The first is its input, every other is the sum of the operations on the edges from all
    earlier nodes, and the last is its output. Members are named as there, for instance
    ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|``, where ``~0`` is the source of
    an edge; a decision is named by its edge, ``0-1`` to ``2-3``.

    An edge whose input is zero, or that the output does not depend on, is not part of the network: with convolutions
    on such edges, it has fewer parameters than the benchmark lists.

    Args:
        image_shape: (channels, height, width) of the images; the recipe of a GTN may leave it to its task.
        classes: number of classes; the recipe of a GTN may leave it to its task.
        cells: cells in each of the three stages, N in the paper.
        channels: channels of the first stage, C in the paper; each further stage has twice as many.
        norm: ``"batch"`` (statistics of the batch, in evaluation too) or ``"batch_running"`` (ordinary BatchNorm).

    Raises:
        RecipeError: an unknown norm, a size below 1, or images too small to be halved twice.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        cells: int = 5,
        channels: int = 16,
        norm: str = "batch",
    ) -> None:
        self.image_shape, self.classes = image_sizes("NASBench201", image_shape, classes)
        check_cell_space(self.image_shape, cells, channels, norm)
        self.cells = cells
        self.channels = channels
        self.norm = norm
        self.decisions: Mapping[str, Sequence[Choice]] = {
            f"{source}-{node}": list(_OPERATIONS) for source, node in _EDGES
        }

    def name(self, choices: Mapping[str, Choice]) -> str:
        """Return the benchmark's name of a cell."""
        return _name(tuple(str(choices[key]) for key in self.decisions))

    def choices(self, name: str) -> dict[str, Choice]:
        return dict(zip(self.decisions, re.findall(r"([^|+~]+)~[0-9]", name), strict=False))

    def build(self, architecture: Architecture) -> nn.Module:
        return _Network(
            self.image_shape, self.classes, _live(_cell(architecture)), self.cells, self.channels, self.norm
        )

    def canonical(self, architecture: Architecture) -> str:
        """Return the first member that is isomorphic by the benchmark's own rule, by which 6,466 differ.

        A node is the sorted sum of its inputs; a skip connection is its source; `none`, and any operation on a zero,
        is a zero. The rule is not exact. Zeros remain terms of a sum, and a sum that a skip connection copies remains
        one term, so that a function may have several names: otherwise 4,930 would differ. And one convolution used
        twice has the same name as two equal convolutions.
        """
        return _first_members()[_function(_cell(architecture))]

    def encode(self, architecture: Architecture) -> tuple[float, ...]:
        """Return 14 numbers of the cell without the edges that the output does not depend on.

        They are the numbers of edges with each operation other than `none`, and of all; the number of paths from input
        to output; the most and the fewest convolutions on a path; the most 3x3 convolutions on a path, and their sum
        over the paths; the most and the fewest poolings on a path; whether a path has no convolution; whether a path is
        made of skip connections alone. That paths tell more than edges is known since White et al., "BANANAS"
        (arXiv 1910.11858).
        """
        live = _live(_cell(architecture))
        counts = [sum(operation == name for operation in live.values()) for name in _OPERATIONS[1:]]
        paths = [[live[edge] for edge in path] for path in _PATHS if all(edge in live for edge in path)]
        if not paths:
            return (0.0,) * 14
        wide = [path.count("nor_conv_3x3") for path in paths]
        convolutions = [path.count("nor_conv_1x1") + more for path, more in zip(paths, wide, strict=True)]
        poolings = [path.count("avg_pool_3x3") for path in paths]
        of_paths = [
            *(max(convolutions), min(convolutions), max(wide), sum(wide), max(poolings), min(poolings)),
            *(min(convolutions) == 0, any(set(path) == {"skip_connect"} for path in paths)),
        ]
        return tuple(map(float, [*counts, len(live), len(paths), *of_paths]))

    def family(self, architecture: Architecture) -> str:
        """Return ``conv``, ``pool`` or ``skip``, the first that the output depends on, or else ``none``."""
        live = set(_live(_cell(architecture)).values())
        if live & {"nor_conv_1x1", "nor_conv_3x3"}:
            return "conv"
        if "avg_pool_3x3" in live:
            return "pool"
        return "skip" if live else "none"


def _cell(architecture: Architecture) -> _Cell:
    return tuple(str(choice) for choice in architecture.choices.values())


def _name(cell: _Cell) -> str:
    nodes: list[list[str]] = [[] for _ in range(_OUTPUT)]
    for (source, node), operation in zip(_EDGES, cell, strict=True):
        nodes[node - 1].append(f"{operation}~{source}")
    return "+".join(f"|{'|'.join(node)}|" for node in nodes)


def _live(cell: _Cell) -> dict[tuple[int, int], str]:
    """Return the operations of the edges on paths from the input to the output."""
    edges = {edge: operation for edge, operation in zip(_EDGES, cell, strict=True) if operation != "none"}
    reached, needed = {0}, {_OUTPUT}
    for source, node in _EDGES:  # in the order of nodes: the edges into a source come first
        if (source, node) in edges and source in reached:
            reached.add(node)
    for source, node in reversed(_EDGES):
        if (source, node) in edges and node in needed:
            needed.add(source)
    return {edge: operation for edge, operation in edges.items() if edge[0] in reached and edge[1] in needed}


def _function(cell: _Cell) -> str:
    """Return a cell's function exactly as the benchmark writes it: the count depends on the order of terms."""
    operations = dict(zip(_EDGES, cell, strict=True))
    nodes = ["0"]
    for node in range(1, _NODES):
        terms = []
        for source in range(node):
            operation = operations[source, node]
            if operation == "none" or nodes[source] == "#":
                terms.append("#")
            elif operation == "skip_connect":
                terms.append(nodes[source])
            else:
                terms.append(f"({nodes[source]})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[_OUTPUT]


@cache
def _first_members() -> dict[str, str]:
    """Return, for every function, the first cell that computes it; all cells are enumerated once in a process."""
    first: dict[str, str] = {}
    for cell in _all_cells():
        function = _function(cell)
        if function not in first:
            first[function] = _name(cell)
    return first


def _all_cells() -> Iterator[_Cell]:
    return product(_OPERATIONS, repeat=len(_EDGES))


class _Network(ImageClassifier):
    """Three stages of cells with residual blocks between them."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        edges: Mapping[tuple[int, int], str],
        cells: int,
        channels: int,
        norm: str,
    ) -> None:
        super().__init__(image_shape, classes)
        in_channels, rows, columns = self.image_shape
        self.stem = nn.Sequential(
            conv(in_channels, channels, norm, "linear"), image_norm(norm, channels, rows * columns)
        )
        stages: list[nn.Module] = []
        for stage in range(3):
            if stage > 0:
                odd = rows % 2 == 1 or columns % 2 == 1
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
                stages.append(_ResidualBlock(channels, 2 * channels, norm, rows * columns, odd))
                channels *= 2
            stages += [_CellModule(edges, channels, norm, rows * columns) for _ in range(cells)]
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(image_norm(norm, channels, rows * columns), nn.ReLU())
        self.classifier = classifier(channels, classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W]."""
        logits: Tensor = self.classifier(self.last(self.stages(self.stem(images))).mean(dim=(2, 3)))
        return logits


class _CellModule(nn.Module):
    """A cell, made of its edges on paths from the input to the output."""

    def __init__(self, edges: Mapping[tuple[int, int], str], channels: int, norm: str, pixels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {f"{source}-{node}": _operation(name, channels, norm, pixels) for (source, node), name in edges.items()}
        )
        self.sources = {
            node: [source for source, target in edges if target == node] for node in sorted({node for _, node in edges})
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return images of the same shape."""
        if not self.sources:
            return images * 0  # not new zeros: the layers before need a gradient, though of zero
        nodes = {0: images}
        for node, sources in self.sources.items():
            terms = [self.edges[f"{source}-{node}"](nodes[source]) for source in sources]
            nodes[node] = sum(terms[1:], terms[0])
        return nodes[_OUTPUT]


def _operation(name: str, channels: int, norm: str, pixels: int) -> nn.Module:
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return relu_conv_norm(channels, channels, norm, pixels, kernel_size=1 if name == "nor_conv_1x1" else 3)


class _ResidualBlock(nn.Module):
    """Halves the images and doubles the channels; nothing follows the sum."""

    def __init__(self, in_channels: int, channels: int, norm: str, pixels: int, odd: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            relu_conv_norm(in_channels, channels, norm, pixels, stride=2),
            relu_conv_norm(channels, channels, norm, pixels),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=odd), conv(in_channels, channels, norm, "linear", kernel_size=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return images of half the size, rounded up."""
        outputs: Tensor = self.shortcut(images) + self.branch(images)
        return outputs
