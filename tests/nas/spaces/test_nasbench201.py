"""The cells of NAS-Bench-201: their sizes against the benchmark's, their isomorphisms, their gradients."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD, Buffers, Functional, Params, unroll
from gtn_lightning.nas.spaces import NASBench201

SHAPE, CLASSES = (2, 8, 7), 3
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"


def small_space(norm: str = "batch") -> NASBench201:
    return NASBench201(SHAPE, CLASSES, cells=1, channels=4, norm=norm)


def cifar_space() -> NASBench201:
    return NASBench201((3, 32, 32), 10)


def cell_of(*operations: str) -> str:
    """Name the cell with these operations on the edges 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3; or with one on all."""
    one, two, three, four, five, six = operations * (6 // len(operations))
    return f"|{one}~0|+|{two}~0|{three}~1|+|{four}~0|{five}~1|{six}~2|"


def samples(count: int) -> list[str]:
    space, generator = small_space(), torch.Generator().manual_seed(0)
    return [space.sample(generator).name for _ in range(count)]


def built(space: NASBench201, name: str) -> nn.Module:
    return space.build(space.parse(name))


# What meta-learning is most likely to trip over, and some others.
CELLS = [
    cell_of("none"),
    cell_of("skip_connect"),
    cell_of("avg_pool_3x3"),
    cell_of("nor_conv_3x3"),
    cell_of("nor_conv_3x3", "nor_conv_1x1", "nor_conv_3x3", "none", "none", "none"),
    cell_of("none", "none", "none", "none", "nor_conv_3x3", "nor_conv_3x3"),
    BEST,
    *samples(6),
]


@pytest.mark.parametrize(
    ("cell", "parameters"),
    [
        (BEST, 1_073_466),
        (cell_of("nor_conv_3x3"), 1_531_546),
        (cell_of("none"), 73_306),
        (cell_of("skip_connect"), 73_306),
    ],
)
def test_networks_have_the_benchmarks_sizes(cell: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in built(cifar_space(), cell).parameters()) == parameters


def test_a_network_costs_what_the_benchmark_says() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(cifar_space(), BEST)(torch.zeros(1, 3, 32, 32))
    # The benchmark counts a multiplication and an addition as one, and like torch no norm and no pooling.
    assert counter.get_total_flops() / 2e6 == pytest.approx(153.27, abs=0.005)


def test_every_name_is_read_back() -> None:
    space = small_space()
    for cell in space:
        assert space.parse(cell.name) == cell
        assert space.name(cell.choices) == cell.name
    assert space.parse(BEST).choices == {
        "0-1": "nor_conv_3x3",
        "0-2": "nor_conv_3x3",
        "1-2": "nor_conv_3x3",
        "0-3": "skip_connect",
        "1-3": "nor_conv_1x1",
        "2-3": "nor_conv_3x3",
    }


def test_there_are_as_many_different_cells_as_in_the_benchmark() -> None:
    space = small_space()
    cells = {cell.name: cell for cell in space}
    names = {name: space.canonical(cell) for name, cell in cells.items()}
    assert len(names) == 15_625
    assert len(set(names.values())) == 6_466
    for name, canonical in names.items():
        assert names[canonical] == canonical
        assert space.family(cells[canonical]) == space.family(cells[name])


def test_isomorphic_cells_compute_the_same() -> None:
    """With the same weights in all convolutions of a kind, so that it does not matter which of them is which."""
    space, checked = small_space(), 0
    images = torch.randn(4, *SHAPE, dtype=torch.float64)
    for cell in samples(60):
        canonical = space.canonical(space.parse(cell))
        if canonical != cell:
            checked += 1
            torch.testing.assert_close(alike(built(space, cell))(images), alike(built(space, canonical))(images))
    assert checked > 20


def alike(network: nn.Module) -> nn.Module:
    network.double()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.manual_seed(parameter.numel())
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize(
    ("cell", "family"),
    [
        (BEST, "conv"),
        (cell_of("avg_pool_3x3"), "pool"),
        (cell_of("skip_connect"), "skip"),
        (cell_of("none"), "none"),
        # A convolution that nothing enters, and one that leads nowhere.
        (cell_of("none", "none", "none", "skip_connect", "nor_conv_3x3", "none"), "skip"),
        (cell_of("nor_conv_3x3", "none", "none", "avg_pool_3x3", "none", "none"), "pool"),
        (cell_of("nor_conv_3x3", "none", "nor_conv_3x3", "none", "none", "none"), "none"),
    ],
)
def test_a_family_is_what_lies_on_the_way_to_the_output(cell: str, family: str) -> None:
    assert small_space().family(small_space().parse(cell)) == family


def test_a_cell_is_encoded_by_its_live_edges_and_paths() -> None:
    space = small_space()
    # Node 1 is dead: its only way on is through a zero. Paths: 0-3 by a skip, 0-2-3 by two convolutions.
    cell = cell_of("nor_conv_3x3", "nor_conv_1x1", "none", "skip_connect", "none", "nor_conv_3x3")
    assert space.encode(space.parse(cell)) == (1, 1, 1, 0, 3, 2, 2, 0, 1, 1, 0, 0, 1, 1)
    # All four paths have a pooling on every edge.
    assert space.encode(space.parse(cell_of("avg_pool_3x3"))) == (0, 0, 0, 6, 6, 4, 0, 0, 0, 0, 3, 1, 1, 0)
    assert space.encode(space.parse(cell_of("none"))) == (0,) * 14


def test_a_node_is_the_sum_of_its_inputs() -> None:
    """Skip connections alone: node 1 is x, node 2 is 2 x, and the output 4 x; three such cells make 64 of it."""
    network = built(NASBench201((1, 4, 4), 2, cells=3, channels=2), cell_of("skip_connect"))
    images = torch.randn(5, 1, 4, 4)
    features: list[Tensor] = []
    stages: nn.Module = network.stages  # type: ignore[assignment]
    stages.get_submodule("0").register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    stages.get_submodule("2").register_forward_hook(lambda _, __, output: features.append(output))
    network(images)
    torch.testing.assert_close(features[1], 64 * features[0])


@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_has_a_gradient(cell: str) -> None:
    torch.manual_seed(0)
    network = built(small_space(), cell)
    logits = network(torch.randn(6, *SHAPE))
    assert logits.shape == (6, CLASSES)
    # An unused parameter would be an error here.
    gradients = torch.autograd.grad(F.cross_entropy(logits, torch.arange(6) % 3), list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    if small_space().family(small_space().parse(cell)) != "none":
        assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("norm", ["batch", "batch_running"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_network_can_be_taught(cell: str, norm: str) -> None:
    torch.manual_seed(0)
    learner = Functional(built(small_space(norm), cell))
    images = torch.randn(6, *SHAPE, requires_grad=True)
    labels = torch.arange(6) % 3

    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    trained = unroll(loss, *learner.init(), [(images, labels)] * 2, SGD(0.1))
    meta_loss, _ = loss(trained.params, trained.buffers, torch.randn(6, *SHAPE), labels)
    (gradient,) = torch.autograd.grad(meta_loss, images)
    assert gradient.isfinite().all()
    # Past a cell of zeros no image reaches the logits.
    assert (gradient.abs().max() > 0) == (small_space().family(small_space().parse(cell)) != "none")


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 28, 28), (1, 5, 9)])
def test_odd_sizes_are_rounded_up(shape: tuple[int, int, int]) -> None:
    assert built(NASBench201(shape, 4, cells=1, channels=2), BEST)(torch.randn(3, *shape)).shape == (3, 4)


def test_batch_statistics_are_used_in_evaluation_too() -> None:
    images = torch.randn(6, *SHAPE)
    network = built(small_space(), BEST)
    torch.testing.assert_close(network.eval()(images), network.train()(images))
    assert not list(network.buffers())
    assert list(built(small_space("batch_running"), BEST).buffers())


def test_a_description_brings_the_space_back() -> None:
    space = NASBench201(SHAPE, CLASSES, cells=2, channels=6, norm="batch_running")
    again = build(json.loads(json.dumps(describe(space))))
    assert describe(again) == describe(space)
    assert built(again, BEST).state_dict().keys() == built(space, BEST).state_dict().keys()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: small_space().parse(BEST.replace("skip_connect", "conv_9x9")),
            "0-3 must be one of none, .*, got 'conv_9x9'",
        ),
        (
            lambda: small_space().parse("|none~0|+|none~0|none~1|"),
            "0-3 must be one of none, skip_connect, .*, got None",
        ),
        (lambda: small_space().parse(BEST + "|none~0|"), r"expected '\|nor_conv_3x3~0"),
        (lambda: small_space().parse(BEST.replace("~2", "~1")), r"expected '\|nor_conv_3x3~0"),
        (lambda: small_space().parse(""), "0-1 must be .*, got None"),
        (lambda: small_space().parse("resnet\n"), "0-1 must be .*, got None"),
        (lambda: NASBench201((3, 32, 32), 10, norm="layer"), "norm: 'layer'.*batch, batch_running"),
        (lambda: NASBench201((3, 32, 32), 10, cells=0), "cells must be .*, got 0"),
        (lambda: NASBench201((3, 32, 32), 10, channels=-1), "channels must be .*, got -1"),
        (lambda: NASBench201((3, 32, 32), 0), "classes must be .*, got 0"),
        (lambda: NASBench201((32, 32), 10), r"image_shape must be .*, got \[32, 32\]"),  # type: ignore[arg-type]
        (lambda: NASBench201((3, 2, 32), 10), r"image_shape: got \[3, 2, 32\].*at least 3x3"),
    ],
)
def test_errors_are_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
