"""The grid of ConvNets: names, networks, families, and errors."""

import json
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import ConvNet
from gtn_lightning.nas.spaces import ConvNetGrid


def mnist_grid() -> ConvNetGrid:
    return ConvNetGrid((1, 28, 28), 10)


def test_every_name_says_which_network_it_is() -> None:
    grid = mnist_grid()
    assert len(grid) == 720
    for member in grid:
        assert grid.parse(member.name) == member
        assert grid.name(member.choices) == str(member) == member.name
        choices = grid.parse(member.name).choices
        assert list(choices) == list(grid.decisions)
        assert all(choices[key] in options for key, options in grid.decisions.items())
    assert grid.parse("w16-d3-leaky_relu-batch-max").choices == {
        "width": 16,
        "depth": 3,
        "activation": "leaky_relu",
        "norm": "batch",
        "pooling": "max",
    }


@pytest.mark.parametrize(
    "member",
    [
        "w4-d1-sigmoid-none-none",
        "w4-d4-relu-instance-max",
        "w32-d4-leaky_relu-instance-average",
        "w32-d4-relu-group-none",
        "w4-d4-sigmoid-layer-max",
    ],
)
def test_the_extremes_can_be_built(member: str) -> None:
    network = mnist_grid().build(mnist_grid().parse(member))
    logits = network(torch.randn(4, 1, 28, 28))
    assert logits.shape == (4, 10)
    gradients = torch.autograd.grad(logits.logsumexp(dim=1).sum(), list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_member_is_the_convnet_of_its_name() -> None:
    grid = mnist_grid()
    torch.manual_seed(3)
    member = grid.build(grid.parse("w8-d2-leaky_relu-group-average")).state_dict()
    torch.manual_seed(3)
    shape = (1, 28, 28)
    network = ConvNet(shape, 10, width=8, depth=2, norm="group", pooling="average", activation="leaky_relu")
    assert [*member] == [*network.state_dict()]
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in member.items())


def test_a_family_is_a_norm_and_a_pooling() -> None:
    grid = mnist_grid()
    assert grid.family(grid.parse("w16-d3-leaky_relu-batch-max")) == "batch-max"
    assert set(Counter(map(grid.family, grid)).values()) == {48}
    assert len({*map(grid.family, grid)}) == 15


def test_widths_and_depths_are_free() -> None:
    grid = ConvNetGrid((3, 8, 8), 5, widths=(6, 12, 24), depths=(2,))
    assert len(grid) == 3 * 45
    network: nn.Module = grid.build(grid.parse("w24-d2-relu-batch-max"))
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_a_description_brings_the_grid_back() -> None:
    grid = ConvNetGrid((3, 8, 8), 5, widths=(6, 12), depths=(1, 2))
    again = build(json.loads(json.dumps(describe(grid))))
    assert describe(again) == describe(grid)
    assert list(again) == list(grid)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mnist_grid().parse("w5-d1-relu-batch-max"),
            "'w5-d1-relu-batch-max'.*width must be one of 4, 8, 16, 32, got 5",
        ),
        (lambda: mnist_grid().parse("w4-d1-relu-batch"), "pooling must be one of none, max, average, got None"),
        (lambda: mnist_grid().parse("w04-d1-relu-batch-max"), "expected 'w4-d1-relu-batch-max'"),
        (lambda: mnist_grid().parse("w4-d1-relu-batch-max-max"), "expected 'w4-d1-relu-batch-max'"),
        (lambda: mnist_grid().parse("4-1-relu-batch-max"), "width must be .*, got '4'"),
        (lambda: mnist_grid().parse(""), "width must be .*, got ''"),
        (lambda: mnist_grid().parse("w4\n-d1-relu-batch-max"), "is not an architecture of this space"),
        (lambda: mnist_grid().parse("resnet"), "is not an architecture of this space"),
        (
            lambda: ConvNetGrid((1, 28, 28), 10, widths=[]),
            r"widths must be different whole numbers, at least one, got \[\]",
        ),
        (lambda: ConvNetGrid((1, 28, 28), 10, depths=[2, 2]), r"depths must be .*, got \[2, 2\]"),
        (lambda: ConvNetGrid((1, 28, 28), 10, widths=[0]), "width must be .*, got 0"),
        (lambda: ConvNetGrid((1, 8, 8), 10), "norm 'instance'.*less depth"),
    ],
)
def test_errors_are_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
