"""Which results the linearized mode keeps."""

import torch
from torch import nn
from torch.fx import GraphModule

from gtn_lightning.inner_loop import Functional
from gtn_lightning.inner_loop.compiler.graphs import Indices, product_graph
from gtn_lightning.inner_loop.compiler.partition import Linearization, linearize
from tests.inner_loop.test_gradients import cross_entropy

aten = torch.ops.aten


def operators(graph: GraphModule) -> list[object]:
    return [getattr(node.target, "overloadpacket", node.target) for node in graph.graph.nodes]


def network() -> tuple[Indices, list[torch.Tensor], object]:
    """Two convolutions, as a function of flat tensors: four parameters, images, labels."""
    torch.manual_seed(0)
    learner = Functional(nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.Tanh(), nn.Conv2d(8, 4, 3, bias=False), nn.Tanh(), nn.Flatten(),
        nn.Linear(64, 3),
    ))  # fmt: skip
    params, buffers = learner.init()
    loss = cross_entropy(learner)

    def flat(*inputs: torch.Tensor) -> tuple[torch.Tensor]:
        return (loss(dict(zip(params, inputs, strict=False)), buffers, *inputs[-2:])[0],)

    inputs = [*params.values(), torch.randn(6, 3, 8, 8), torch.arange(6) % 3]
    return Indices(tuple(range(len(params))), (len(params),), 0), inputs, flat


def linearized_network() -> tuple[Linearization, list[torch.Tensor]]:
    indices, inputs, flat = network()
    return linearize(flat, indices, inputs), inputs  # type: ignore[arg-type]


def test_the_derivative_computes_no_convolution_again() -> None:
    cut, _ = linearized_network()
    both = [operators(graph).count(aten.convolution) for graph in (cut.gradient, cut.derivative)]
    # Tangents: of the second layer's inputs and filters, of the first layer's filters alone.
    assert both == [2, 3]
    backward = [operators(graph).count(aten.convolution_backward) for graph in (cut.gradient, cut.derivative)]
    # One call per layer gives the gradient by its inputs and by its filters. Of these four results, two products each
    # have a tangent, but that by the first layer's filters one: its inputs are constant.
    assert backward == [2, 7]


def test_products_with_the_images_tangent_which_is_zero_are_left_out() -> None:
    indices, inputs, flat = network()
    graph = product_graph(flat, indices, inputs, with_loss=False)  # type: ignore[arg-type]
    assert operators(graph).count(aten.convolution) == 2 + 3
    assert not any(target is aten._efficientzerotensor for target in operators(graph))


def test_only_results_of_costly_operators_are_kept() -> None:
    cut, inputs = linearized_network()
    vector = [torch.randn_like(tensor) for tensor in inputs[:-2]]
    results = cut.gradient(*inputs)
    kept = results[len(vector) + 1 :]
    # Both convolutions' outputs, their cotangents' sources and what is small: not tanh and its derivatives.
    outputs = [6 * 8 * 6 * 6, 6 * 4 * 4 * 4]
    large = sorted(tensor.numel() for tensor in kept if tensor.numel() >= 6 * 64)
    assert sum(large) <= 3 * sum(outputs)
    products = cut.derivative(*(inputs[index] for index in cut.inputs), *kept, *vector)
    indices, inputs, flat = network()
    expected = product_graph(flat, indices, inputs, with_loss=False)(*inputs, *vector)  # type: ignore[arg-type]
    for product, other in zip(products, expected, strict=True):
        torch.testing.assert_close(product, other)
