"""The networks: shapes, sizes, error messages, and what meta-learning asks of them."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import MLP, ConvNet, GTNCifarNet, GTNMnistNet, ResNet
from gtn_lightning.learners.norms import FEATURE_NORMS, IMAGE_NORMS

POOLINGS = ("max", "average", "stride", "global")
ACTIVATIONS = ("relu", "leaky_relu", "gelu", "tanh", "sigmoid")


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def check_learns_from(network: nn.Module, image_shape: tuple[int, int, int], classes: int) -> None:
    """Logits have the right shape and a sane size, and every parameter has a say in them."""
    images = torch.randn(6, *image_shape)
    logits = network(images)
    assert logits.shape == (6, classes)
    assert 1e-3 < logits.std() < 30
    gradients = torch.autograd.grad(logits.logsumexp(dim=1).sum() - logits[:, 0].sum(), list(network.parameters()))
    # Kept apart from rounding: a bias in front of a mean subtraction has a gradient near 1e-7.
    assert min(float(gradient.abs().max()) for gradient in gradients) > 1e-6


@pytest.mark.parametrize("norm", IMAGE_NORMS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_convnet_with_every_norm_pooling_and_activation(norm: str, pooling: str) -> None:
    for activation in ACTIVATIONS:
        torch.manual_seed(0)
        network = ConvNet((2, 8, 9), 5, width=8, depth=2, norm=norm, pooling=pooling, activation=activation)
        check_learns_from(network, (2, 8, 9), 5)


def test_convnet_as_most_people_write_it() -> None:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    torch.manual_seed(0)
    written = nn.Sequential(*block(1, 16), *block(16, 16), nn.Flatten(), nn.Linear(16 * 2 * 2, 10))
    torch.manual_seed(0)
    order = ["norm", "activation", "pool"]
    network = ConvNet((1, 8, 8), 10, width=16, depth=2, norm="batch_running", order=order, init="torch")
    for one, other in zip(written.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)
    images = torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(network(images), written(images), rtol=0, atol=0)


@pytest.mark.parametrize("order", itertools.permutations(("pool", "norm", "activation")))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_convnet_with_every_order(order: tuple[str, ...], pooling: str) -> None:
    check_learns_from(ConvNet((1, 8, 9), 5, width=8, depth=2, pooling=pooling, order=order), (1, 8, 9), 5)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_default_convnet_fits_the_usual_image_sizes(size: int) -> None:
    check_learns_from(ConvNet((1, size, size), 10), (1, size, size), 10)


@pytest.mark.parametrize("norm", FEATURE_NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_with_every_norm_and_activation(norm: str, activation: str) -> None:
    torch.manual_seed(0)
    check_learns_from(MLP((1, 4, 5), 3, hidden=[16, 12], norm=norm, activation=activation), (1, 4, 5), 3)


def test_mlp_without_hidden_layers_is_linear() -> None:
    network = MLP((1, 4, 4), 3, hidden=[])
    one, other = torch.randn(2, 5, 1, 4, 4)
    zero = network(torch.zeros_like(one))
    torch.testing.assert_close(network(one + other) - zero, network(one) + network(other) - 2 * zero)


@pytest.mark.parametrize("norm", IMAGE_NORMS)
def test_resnet_with_every_norm(norm: str) -> None:
    torch.manual_seed(0)
    network = ResNet((3, 16, 16), 7, width=8, blocks=[2, 1, 2], norm=norm)
    check_learns_from(network, (3, 16, 16), 7)


@pytest.mark.parametrize("norm", FEATURE_NORMS)
def test_paper_networks_with_every_norm(norm: str) -> None:
    torch.manual_seed(0)
    check_learns_from(GTNMnistNet((1, 10, 10), 4, conv1=8, conv2=8, linear=16, norm=norm), (1, 10, 10), 4)
    check_learns_from(GTNCifarNet((3, 8, 8), 4, widths=[8, 8, 8], norm=norm), (3, 8, 8), 4)


def test_paper_networks_have_the_papers_sizes() -> None:
    # Weights, and per output a scale and a bias.
    outputs = 64 + 128 + 256 + 10
    weights = 9 * 64 + 9 * 64 * 128 + 7 * 7 * 128 * 256 + 256 * 10
    assert parameter_count(GTNMnistNet()) == weights + 2 * outputs == 1_683_412
    outputs = 64 + 128 + 128 + 256 + 256 + 10
    weights = 9 * (3 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) + 256 * 10
    assert parameter_count(GTNCifarNet()) == weights + 2 * outputs == 1_111_892


@pytest.mark.parametrize("norm", ["none", "weight"])
@pytest.mark.parametrize("depth", [1, 6])
def test_unnormalized_resnet_keeps_its_scale_whatever_its_depth(norm: str, depth: int) -> None:
    torch.manual_seed(0)
    logits = ResNet((3, 16, 16), 10, blocks=[depth, depth], norm=norm)(torch.randn(16, 3, 16, 16))
    assert 0.2 < logits.std() < 5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvNet((1, 8, 8), 10, depth=4), r"depth must be at most 3 .*image_shape \[1, 8, 8\], got 4"),
        (lambda: ConvNet((1, 8, 8), 10, depth=4, pooling="stride"), "depth must be at most 3 .*, got 4"),
        (
            lambda: ConvNet((1, 32, 4), 10, depth=4, pooling="global"),
            r"depth must be at most 3 .*image_shape \[1, 32, 4\], got 4",
        ),
        (lambda: ConvNet((1, 8, 8), 10, norm="instance", pooling="stride"), "norm 'instance'"),
        (
            lambda: ConvNet((1, 8, 8), 10, norm="bath"),
            "norm must be one of batch, batch_running, group, layer, instance, .*, got 'bath'",
        ),
        (lambda: ConvNet((1, 8, 8), 10, pooling="min"), "pooling must be one of max, .*, got .min."),
        (lambda: ConvNet((1, 8, 8), 10, order=["pool"]), r"order must be pool, norm, .*, got \['pool'\]"),
        (lambda: ConvNet((1, 8, 8), 10, init="zero"), "init must be one of kaiming, torch, got 'zero'"),
        (lambda: ConvNet((1, 8, 8), 10, activation="swish"), "activation must be one of relu, .*, got .swish."),
        (lambda: ConvNet((1, 8, 8), 10, width=0), r"width must be .*, got 0"),
        (lambda: ConvNet((1, 8, 8), 10, depth=0), r"depth must be .*, got 0"),
        (lambda: ConvNet((8, 8), 10), r"image_shape must be .*, got \[8, 8\]"),  # type: ignore[arg-type]
        (lambda: ConvNet((1, 8, 0), 10), r"image_shape must be .*, got \[1, 8, 0\]"),
        (lambda: ConvNet((1, 8, 8), 0), r"classes must be .*, got 0"),
        (
            lambda: MLP((1, 8, 8), 10, norm="instance"),
            "must be one of batch, batch_running, group, layer, weight, none, got 'instance'",
        ),
        (lambda: MLP((1, 8, 8), 10, hidden=[32, -1]), r"hidden must be .*, got \[32, -1\]"),
        (lambda: ResNet((1, 4, 4), 10, blocks=[1, 1, 1, 1]), r"blocks must have at most 3 stages .*\[1, 4, 4\], got 4"),
        (lambda: ResNet((1, 4, 4), 10, blocks=[]), r"blocks must be .*, got \[\]"),
        (lambda: GTNMnistNet(norm="instance"), "norm after a linear layer must be .*, got 'instance'"),
        (lambda: GTNMnistNet(conv2=0), r"conv2 must be .*, got 0"),
        (lambda: GTNCifarNet(widths=[16, 0]), r"widths must be .*, got \[16, 0\]"),
    ],
)
def test_bad_values_are_named_in_one_line(build: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_the_deepest_networks_that_errors_advise_can_be_built() -> None:
    for pooling, depth in (("max", 3), ("stride", 3), ("global", 4)):
        check_learns_from(ConvNet((1, 8, 8), 10, depth=depth, pooling=pooling), (1, 8, 8), 10)
        with pytest.raises(RecipeError, match=f"at most {depth}"):
            ConvNet((1, 8, 8), 10, depth=depth + 1, pooling=pooling)


@pytest.mark.parametrize("norm", ["batch", "weight"])
def test_batch_statistics_are_used_in_evaluation_too(norm: str) -> None:
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), 10, norm=norm)
    images = torch.randn(8, 1, 8, 8)
    taught = network.train()(images)
    torch.testing.assert_close(network.eval()(images), taught)
    assert not list(network.buffers())


@pytest.mark.parametrize("build", [ConvNet, GTNMnistNet, ResNet])
def test_a_learner_can_be_called_with_other_parameters_and_is_left_alone(
    build: Callable[..., nn.Module],
) -> None:
    network = build((1, 8, 8), 3)
    images = torch.randn(4, 1, 8, 8)
    before = network(images)
    other = {name: parameter + 0.1 for name, parameter in network.named_parameters()}
    moved = functional_call(network, other, (images,))
    assert not torch.allclose(before, moved)
    torch.testing.assert_close(network(images), before)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(other[name])
    torch.testing.assert_close(network(images), moved)


SMALL: dict[str, Any] = {"image_shape": (1, 8, 8), "classes": 3}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"ConvNet-{norm}-{pooling}": partial(
            ConvNet, **SMALL, width=8, depth=2, norm=norm, pooling=pooling, activation="tanh"
        )
        for norm, pooling in itertools.product(IMAGE_NORMS, ["max", "average"])
    },
    **{
        f"MLP-{norm}": partial(MLP, (1, 8, 8), 3, hidden=[8, 8], norm=norm, activation="gelu") for norm in FEATURE_NORMS
    },
    "ResNet": partial(ResNet, **SMALL, width=4, blocks=[1, 1]),
    "GTNMnistNet": partial(GTNMnistNet, **SMALL, conv1=4, conv2=4, linear=8),
    "GTNCifarNet": partial(GTNCifarNet, **SMALL, widths=[4, 4, 4]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_of_the_gradient_is_right(name: str) -> None:
    """One inner SGD step's meta-gradient: autograd twice, against central differences of the gradient.

    With g(p, x) the loss's gradient w.r.t. the parameters and v fixed, the derivative of <g, v> w.r.t. p and
    x, in a random direction, is compared with the difference quotient of <g, v> in that direction.
    """
    torch.manual_seed(1)
    network = NETWORKS[name]().double()
    labels = torch.tensor([0, 1, 2, 0, 1])
    buffers = {key: buffer.clone() for key, buffer in network.named_buffers()}
    names = [key for key, _ in network.named_parameters()]
    point = [*(parameter.detach() for parameter in network.parameters()), torch.randn(5, 1, 8, 8).double()]
    cotangents = [torch.randn_like(tensor) for tensor in point[:-1]]
    direction = [torch.randn_like(tensor) for tensor in point]

    def projected_gradient(tensors: list[Tensor], create_graph: bool) -> Tensor:
        parameters = dict(zip(names, tensors, strict=False))
        state = {**parameters, **{key: buffer.clone() for key, buffer in buffers.items()}}
        loss = nn.functional.cross_entropy(functional_call(network, state, (tensors[-1],)), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=create_graph)
        return torch.stack([(g * v).sum() for g, v in zip(gradients, cotangents, strict=True)]).sum()

    def at(distance: float) -> list[Tensor]:
        return [(t + distance * d).requires_grad_() for t, d in zip(point, direction, strict=True)]

    here = at(0.0)
    exact = torch.autograd.grad(projected_gradient(here, create_graph=True), here)
    slope = sum(float((e * d).sum()) for e, d in zip(exact, direction, strict=True))
    step = 1e-6
    quotient = float(projected_gradient(at(step), False) - projected_gradient(at(-step), False)) / (2 * step)
    assert slope == pytest.approx(quotient, rel=1e-5)
