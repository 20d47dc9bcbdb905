"""The GTN paper's cells: names, isomorphisms, shapes, and what meta-learning asks of the networks."""

import json
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD, Buffers, Functional, Params, unroll
from gtn_lightning.nas.spaces import MicroSpace

SHAPE, CLASSES = (2, 8, 7), 3
OPERATIONS = [
    "identity",
    "conv_1x1",
    "conv_3x3",
    "conv_1x3_3x1",
    "conv_7x1_1x7",
    "max_pool_2x2",
    "max_pool_3x3",
    "max_pool_5x5",
    "avg_pool_2x2",
    "avg_pool_3x3",
    "avg_pool_5x5",
]
# Of two nodes: what an example needs and no more.
SMALL = "0.conv_3x3+1.identity,2.max_pool_2x2+0.conv_1x1|0.identity+1.avg_pool_3x3,0.conv_1x1+1.identity"


def small_space(nodes: int = 5, norm: str = "batch") -> MicroSpace:
    return MicroSpace(SHAPE, CLASSES, cells=1, channels=2, nodes=nodes, norm=norm)


def samples(count: int, nodes: int = 5) -> list[str]:
    space, generator = small_space(nodes), torch.Generator().manual_seed(0)
    return [space.sample(generator).name for _ in range(count)]


def built(space: MicroSpace, name: str) -> nn.Module:
    return space.build(space.parse(name))


def canonical(space: MicroSpace, name: str) -> str:
    return space.canonical(space.parse(name))


def one_operation(name: str) -> str:
    """Name an architecture of one node in each cell."""
    return f"0.{name}+1.{name}|0.{name}+1.{name}"


def test_every_name_is_read_back() -> None:
    space = small_space()
    for architecture in samples(300):
        choices = space.parse(architecture).choices
        assert space.name(choices) == architecture
        assert list(choices) == list(space.decisions)
    two_nodes = small_space(2)
    choices = two_nodes.parse(SMALL).choices
    assert two_nodes.name(choices) == SMALL
    assert choices["normal.1.left.input"] == 2
    assert choices["normal.1.left.op"] == "max_pool_2x2"
    assert choices["reduction.0.right.input"] == 1
    assert choices["reduction.0.right.op"] == "avg_pool_3x3"


def test_the_space_is_the_papers() -> None:
    decisions = MicroSpace((3, 32, 32), 10).decisions
    assert len(decisions) == 2 * 5 * 2 * 2
    assert decisions["normal.0.left.op"] == OPERATIONS
    assert decisions["reduction.4.right.input"] == [0, 1, 2, 3, 4, 5]


def test_the_number_of_members_is_exact_where_len_can_say_it() -> None:
    assert len(small_space(1)) == (2 * 11) ** 4


def test_the_order_of_nodes_and_of_inputs_does_not_matter() -> None:
    space = small_space()
    shuffle = random.Random(0)
    for architecture in samples(100):
        renamed = "|".join(reordered(cell, shuffle) for cell in architecture.split("|"))
        assert canonical(space, renamed) == canonical(space, architecture)
        first = canonical(space, architecture)
        assert canonical(space, first) == first


def reordered(cell: str, shuffle: random.Random) -> str:
    """Number a cell's nodes in another order in which each still comes after its inputs, and swap inputs."""
    nodes = [[term.split(".") for term in node.split("+")] for node in cell.split(",")]
    numbers = {"0": 0, "1": 1}
    names: list[str] = []
    while len(names) < len(nodes):
        place = shuffle.randrange(len(nodes))
        if str(place + 2) not in numbers and all(state in numbers for state, _ in nodes[place]):
            terms = [f"{numbers[state]}.{operation}" for state, operation in nodes[place]]
            names.append("+".join(shuffle.sample(terms, 2)))
            numbers[str(place + 2)] = len(numbers)
    return ",".join(names)


def test_other_cells_have_other_names() -> None:
    space = small_space(2)
    same = "1.identity+0.conv_3x3,0.conv_1x1+2.max_pool_2x2|0.conv_1x1+1.identity,0.identity+1.avg_pool_3x3"
    assert canonical(space, same) == canonical(space, SMALL)
    others = [
        SMALL.replace("0.conv_3x3", "1.conv_3x3"),
        SMALL.replace("conv_3x3", "conv_1x1"),
        SMALL.replace("2.max_pool_2x2", "1.max_pool_2x2"),
        "|".join(reversed(SMALL.replace("2.", "0.").split("|"))),
    ]
    assert len({canonical(space, name) for name in [SMALL, *others]}) == 5


def test_nodes_that_differ_only_in_who_takes_them_are_told_apart() -> None:
    space, twins = small_space(4), "0.conv_3x3+1.conv_3x3,0.conv_3x3+1.conv_3x3"
    reduction = ",".join(["0.identity+1.identity"] * 4)
    first = f"{twins},2.conv_1x1+0.identity,3.max_pool_3x3+0.identity|{reduction}"
    same = f"{twins},3.conv_1x1+0.identity,2.max_pool_3x3+0.identity|{reduction}"
    shared = f"{twins},2.conv_1x1+0.identity,2.max_pool_3x3+0.identity|{reduction}"
    assert canonical(space, first) == canonical(space, same) != canonical(space, shared)


def test_isomorphic_networks_have_the_same_size() -> None:
    space = small_space()
    for architecture in samples(20):
        network, other = built(space, architecture), built(space, canonical(space, architecture))
        assert sizes(network) == sizes(other)


def sizes(network: nn.Module) -> list[int]:
    return sorted(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 5, 9), (3, 16, 16)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_and_halves_sizes(name: str, shape: tuple[int, int, int]) -> None:
    network = built(MicroSpace(shape, 4, cells=1, channels=2, nodes=1), one_operation(name))
    shapes: list[tuple[int, ...]] = []
    cells: nn.ModuleDict = network.cells  # type: ignore[assignment]
    for cell in cells.values():
        cell.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    assert network(torch.randn(3, *shape)).shape == (3, 4)
    _, rows, columns = shape
    sizes = [(rows, columns)]
    for _ in range(2):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
        sizes.append((rows, columns))
    first, second, third = sizes
    expected = [(3, 2, *first), (3, 4, *second), (3, 4, *second), (3, 8, *third), (3, 8, *third)]
    assert shapes == expected


def test_small_poolings_start_at_their_own_pixel() -> None:
    """2x2 pooling of stride 1: an output is over its pixel and the next ones, fewer at the edge."""
    space = MicroSpace((1, 3, 3), 2, cells=1, channels=1, nodes=1)
    images = torch.arange(9.0).view(1, 1, 3, 3)
    found = {}
    for kind in ("max", "avg"):
        cells: nn.ModuleDict = built(space, one_operation(f"{kind}_pool_2x2")).cells  # type: ignore[assignment]
        operations: nn.ModuleList = cells["0"].operations  # type: ignore[assignment]
        found[kind] = operations[0](images)[0, 0].tolist()
    assert found["max"] == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]
    assert found["avg"] == [[2, 3, 3.5], [5, 6, 6.5], [6.5, 7.5, 8]]


def test_outputs_that_no_node_takes_are_concatenated() -> None:
    space = MicroSpace((1, 4, 4), 2, cells=1, channels=3, nodes=2)
    chain = "0.identity+1.identity,2.identity+2.identity"
    apart = "0.identity+1.identity,0.identity+1.identity"
    for cell, nodes in ((chain, 1), (apart, 2)):
        classifier: nn.Linear = built(space, f"{cell}|{apart}").classifier  # type: ignore[assignment]
        assert classifier.in_features == nodes * 4 * 3


def test_cells_that_nothing_takes_are_left_out() -> None:
    space = MicroSpace((1, 4, 4), 2, cells=3, channels=2, nodes=1)
    skipping = built(space, "0.conv_3x3+0.identity|0.conv_3x3+1.identity")
    assert torch.autograd.grad(skipping(torch.randn(3, 1, 4, 4)).logsumexp(1).sum(), list(skipping.parameters()))
    assert len([*skipping.cells]) < len([*built(space, one_operation("identity")).cells]) == 11  # type: ignore[misc]


# Of the one-sided cells, one takes the older input alone and the other the younger.
ARCHITECTURES = [
    *samples(10),
    "|".join([",".join(["0.conv_3x3+0.identity"] * 5)] * 2),
    "|".join([",".join(["1.conv_3x3+1.identity"] * 5)] * 2),
    *("|".join([",".join([f"0.{name}+1.{name}", *[f"{node}.{name}+0.{name}" for node in (2, 3, 4, 5)]])] * 2)
      for name in OPERATIONS),
]  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_a_gradient(architecture: str) -> None:
    torch.manual_seed(0)
    network = built(MicroSpace(SHAPE, CLASSES, cells=2, channels=4), architecture)
    logits = network(torch.randn(8, *SHAPE))
    assert logits.shape == (8, CLASSES)
    gradients = torch.autograd.grad(F.cross_entropy(logits, torch.arange(8) % 3), list(network.parameters()))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_can_be_taught(architecture: str) -> None:
    torch.manual_seed(0)
    norm = "batch" if architecture in ARCHITECTURES[::2] else "batch_running"
    learner = Functional(built(small_space(norm=norm), architecture))
    images = torch.randn(6, *SHAPE, requires_grad=True)
    labels = torch.arange(6) % 3

    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    trained = unroll(loss, *learner.init(), [(images, labels)], SGD(0.1))
    meta_loss, _ = loss(trained.params, trained.buffers, torch.randn(6, *SHAPE), labels)
    (gradient,) = torch.autograd.grad(meta_loss, images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_batch_statistics_are_used_in_evaluation_too() -> None:
    (architecture,) = samples(1)
    images = torch.randn(6, *SHAPE)
    network = built(small_space(), architecture)
    torch.testing.assert_close(network.eval()(images), network.train()(images))
    assert not list(network.buffers())
    assert list(built(small_space(norm="batch_running"), architecture).buffers())


def test_a_description_brings_the_space_back() -> None:
    space = MicroSpace(SHAPE, CLASSES, cells=2, channels=6, nodes=2, norm="batch_running")
    again = build(json.loads(json.dumps(describe(space))))
    assert describe(again) == describe(space)
    assert built(again, SMALL).state_dict().keys() == built(space, SMALL).state_dict().keys()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: small_space(2).parse(SMALL.replace("conv_3x3", "conv_9x9")),
            "normal.0.left.op must be one of .*, got 'conv_9x9'",
        ),
        (
            lambda: small_space(2).parse(SMALL.replace("2.max", "3.max")),
            "normal.1.left.input must be one of 0, 1, 2, got 3",
        ),
        (lambda: small_space(2).parse(SMALL.replace("0.conv", "00.conv")), "expected '0.conv_3x3"),
        (lambda: small_space(2).parse(SMALL.partition("|")[0]), "reduction.0.left.input must be .*, got None"),
        (lambda: small_space(2).parse(SMALL + "|" + SMALL), "expected '0.conv_3x3"),
        (lambda: small_space(2).parse(SMALL + ",0.identity+0.identity"), "expected '0.conv_3x3"),
        (lambda: small_space(2).parse(SMALL.replace("+1.identity,", "+1.identity+1.identity,")), "expected '0.conv"),
        (lambda: small_space(3).parse(SMALL), "normal.2.left.input must be .*, got None"),
        (lambda: small_space().parse(""), "normal.0.left.input must be .*, got ''"),
        (lambda: small_space().parse("resnet\n"), "normal.0.left.input must be"),
        (lambda: small_space(0), "nodes must be .*, got 0"),
        (lambda: small_space(norm="layer"), "norm: 'layer'.*batch, batch_running"),
        (lambda: MicroSpace((3, 32, 32), 10, cells=0), "cells must be .*, got 0"),
        (lambda: MicroSpace((3, 32, 32), 10, channels=0), "channels must be .*, got 0"),
        (lambda: MicroSpace((3, 2, 32), 10), r"image_shape: got \[3, 2, 32\].*at least 3x3"),
    ],
)
def test_errors_are_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
