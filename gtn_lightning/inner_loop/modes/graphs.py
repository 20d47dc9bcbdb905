"""The derivatives of a loss as graphs of tensor operators, made simpler and cut in two.

A graph is a ``torch.fx`` module of ATen operators, which takes tensors and returns a tuple of tensors.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.func import functionalize, grad, jvp
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from gtn_lightning.inner_loop.modes.zeros import drop_zeros, packet

Loss = Callable[..., Sequence[Tensor]]
"""A captured loss: ``inputs -> outputs``."""

_aten = torch.ops.aten

_COSTLY = {
    _aten.addmm, _aten.baddbmm, _aten.bmm, _aten.convolution, _aten.convolution_backward, _aten.mm,
    _aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward, _aten.native_batch_norm,
    _aten.native_batch_norm_backward, _aten.native_layer_norm, _aten.native_layer_norm_backward,
}  # fmt: skip
"""What is kept rather than computed again."""

_VMAP = {
    "_add_batch_dim", "_remove_batch_dim", "_vmap_increment_nesting", "_vmap_decrement_nesting",
    "lazy_load_decompositions",
}  # fmt: skip
"""What dynamo captures of ``vmap``."""

_SMALLER = 4
"""How many times smaller than its input a result is, such as a sum's, that is kept as well."""


class Places(NamedTuple):
    """Where in a captured loss's flat inputs and outputs its arguments and results are."""

    params: tuple[int, ...]
    """Inputs: the parameters."""
    batch: tuple[int, ...]
    """Inputs: the tensors of the batch whose product is asked for."""
    loss: int
    """Output: the loss."""


def gradient_graph(loss: Loss, places: Places, inputs: Sequence[Tensor]) -> GraphModule:
    """Return ``inputs -> (gradient by each parameter, outputs of the loss)`` for inputs like these."""

    def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
        by_params, outputs = _gradient(loss, places, inputs)(_at(inputs, places.params))
        return *by_params, *outputs

    return _traced(gradient, inputs)


def product_graph(loss: Loss, places: Places, inputs: Sequence[Tensor], with_loss: bool) -> GraphModule:
    """Return the graph of forward over reverse for inputs like these.

    Args:
        loss: ``inputs -> outputs``.
        places: where its arguments and results are.
        inputs: flat inputs.
        with_loss: whether the loss has a cotangent besides the gradient.

    Returns:
        ``(inputs, vector[, cotangent of the loss]) -> (product by each parameter, by each tensor of the batch)``.
    """
    count, split = len(inputs), len(places.params)

    def products(*given: Tensor) -> tuple[Tensor, ...]:
        inputs, vector = given[:count], given[count : count + split]
        found, tangents, _ = _along(loss, places, inputs, vector)
        if with_loss:
            tangents = tuple(t + given[-1] * value for value, t in zip(found, tangents, strict=True))
        return tangents

    vector = [torch.zeros_like(tensor) for tensor in _at(inputs, places.params)]
    return _traced(products, [*inputs, *vector, *[inputs[0].new_zeros(())] * with_loss])


class Halves(NamedTuple):
    """A gradient and its derivative: what the second needs of the first is kept, as far as it is costly."""

    gradient: GraphModule
    """``inputs -> (gradient by each parameter, outputs of the loss, what is kept)``."""
    derivative: GraphModule
    """``(inputs needed, what is kept, vector) -> products``."""
    inputs: list[int]
    """The inputs needed."""


def linearised(loss: Loss, places: Places, inputs: Sequence[Tensor]) -> Halves:
    """Return the graphs of a gradient and of its derivative for inputs like these.

    Forward over reverse computes the gradient along with its derivative. What does not depend on the vector is moved
    into the first half; of that, the second half gets the results of costly operators, and computes the others again.
    """
    count, split = len(inputs), len(places.params)

    def both(*given: Tensor) -> tuple[Tensor, ...]:
        inputs, vector = given[:count], given[count:]
        found, tangents, outputs = _along(loss, places, inputs, vector)
        return *found[:split], *outputs, *tangents

    vector = [torch.zeros_like(tensor) for tensor in _at(inputs, places.params)]
    whole = _traced(both, [*inputs, *vector])
    nodes = list(whole.graph.nodes)
    (output,) = whole.graph.find_nodes(op="output")
    results: tuple[Node, ...] = output.args[0]
    first, second = results[: -split - len(places.batch)], results[-split - len(places.batch) :]
    placeholders = whole.graph.find_nodes(op="placeholder")
    vector_nodes = placeholders[count:]

    moving = set(vector_nodes)
    for node in nodes:
        if node.op != "output" and any(source in moving for source in node.all_input_nodes):
            moving.add(node)
    wanted = {source for node in moving for source in node.all_input_nodes if source not in moving}
    wanted |= {node for node in second if node not in moving}
    kept, again = _cut(wanted)
    inputs_needed = [index for index, node in enumerate(placeholders[:count]) if node in kept]
    kept_results = [node for node in nodes if node in kept and node.op != "placeholder"]
    gradient = _part(whole, placeholders[:count], set(nodes) - moving, (*first, *kept_results))
    derivative = _part(
        whole, [*(placeholders[i] for i in inputs_needed), *kept_results, *vector_nodes], moving | again, second
    )
    return Halves(gradient, derivative, inputs_needed)


def _gradient(
    loss: Loss, places: Places, inputs: Sequence[Tensor]
) -> Callable[[tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Return ``params -> (gradient by parameters and batch, outputs)``."""

    def of(params: tuple[Tensor, ...], batch: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        given = list(inputs)
        for place, tensor in zip((*places.params, *places.batch), (*params, *batch), strict=True):
            given[place] = tensor
        outputs = tuple(loss(*given))
        return outputs[places.loss], outputs

    gradient = grad(of, argnums=(0, 1), has_aux=True)

    def flat(params: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        (by_params, by_batch), outputs = gradient(params, _at(inputs, places.batch))
        return (*by_params, *by_batch), outputs

    return flat


def _along(
    loss: Loss, places: Places, inputs: Sequence[Tensor], vector: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the gradient by parameters and batch, its derivative along a vector, and the outputs of the loss."""
    found: tuple[Any, ...] = jvp(
        _gradient(loss, places, inputs), (_at(inputs, places.params),), (vector,), has_aux=True
    )
    gradient, derivative, outputs = found
    return gradient, derivative, outputs


def _at(tensors: Sequence[Tensor], places: Iterable[int]) -> tuple[Tensor, ...]:
    return tuple(tensors[place] for place in places)


def differentiable(loss: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """Return a captured loss as it is, or as one of tensor operators where it uses ``vmap``.

    What is captured of a transform holds for the nesting at which it was captured, and so cannot be differentiated.

    Raises:
        RuntimeError: if the loss has a gradient of its own, or uses another transform of ``torch.func`` than ``vmap``
            or ``vmap`` together with ``no_grad``: that would be lost.
    """
    targets = {node.target for node in loss.graph.nodes if node.op == "call_function"}
    transforms = {
        name for t in targets if "functorch" in getattr(t, "__module__", "") and (name := t.__name__) not in _VMAP
    }
    own = {str(target) for target in targets if isinstance(target, HigherOrderOperator)}
    if transforms | own:
        raise RuntimeError(f"the loss uses {', '.join(sorted(transforms | own))}")
    if not any(getattr(target, "__name__", "") in _VMAP for target in targets):
        return loss
    if torch._C._set_grad_enabled in targets:
        raise RuntimeError("the loss uses vmap together with no_grad")
    return _operators(loss, inputs)


def _traced(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    # In a second pass, what changes tensors in place is replaced: a graph with such operators cannot be cut.
    module = _operators(functionalize(_operators(function, inputs)), inputs)
    drop_zeros(module.graph)
    module.recompile()
    return module


def _operators(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    with torch.no_grad():
        module = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    assert isinstance(module, GraphModule)
    return module


def _cut(wanted: Iterable[Node]) -> tuple[set[Node], set[Node]]:
    """Return what to keep, so that the wanted can be computed from it, and what is computed again."""
    kept, again = set(), set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node in kept or node in again:
            continue
        if node.op == "placeholder" or _is_costly(node):
            kept.add(node)
        else:
            again.add(node)
            waiting += node.all_input_nodes
    return kept, again


def _is_costly(node: Node) -> bool:
    """Return whether a node is not to be computed again."""
    if node.op != "call_function" or not isinstance(value := node.meta["val"], Tensor):
        return False
    # Of several results, it is one that is kept.
    source = node.args[0] if node.target is operator.getitem else node
    assert isinstance(source, Node)
    if packet(source) in _COSTLY:
        return True
    sources = {given: given.meta["val"] for given in source.all_input_nodes}
    tensors = {given: value for given, value in sources.items() if isinstance(value, Tensor)}
    part = packet(source) in (_aten.select, _aten.slice, _aten.split, _aten.unbind)
    if not part and tensors and value.numel() * _SMALLER <= max(given.numel() for given in tensors.values()):
        return True
    # Where nobody else looks at a costly result, what is made of it takes its place: a convolution's bias is then added
    # where the convolution is.
    return any(
        len(given.users) == 1 and tensor.numel() == value.numel() and tensor.dtype == value.dtype and _is_costly(given)
        for given, tensor in tensors.items()
    )


def _part(whole: GraphModule, inputs: Sequence[Node], nodes: set[Node], outputs: Sequence[Node]) -> GraphModule:
    graph = Graph()
    copies = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in whole.graph.nodes:
        if node in nodes and node not in copies and node.op not in ("placeholder", "output"):
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(tuple(copies[node] for node in outputs))
    graph.eliminate_dead_code()
    return GraphModule(whole, graph)
