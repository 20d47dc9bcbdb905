"""Splits a derivative's graph, for ``linearized`` and ``fused``, by what depends on the cotangents.

What does not is computed in the forward pass. Of its results, the backward pass gets those of costly operators and
recomputes the others.
"""

import operator
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from gtn_lightning.inner_loop.compiler.graphs import FlatLoss, Indices, gradient_along, select, simplified
from gtn_lightning.inner_loop.compiler.zeros import overload_packet

_aten = torch.ops.aten

_COSTLY = {
    _aten.addmm, _aten.baddbmm, _aten.bmm, _aten.convolution, _aten.convolution_backward, _aten.mm,
    _aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward, _aten.native_batch_norm,
    _aten.native_batch_norm_backward, _aten.native_layer_norm, _aten.native_layer_norm_backward,
}  # fmt: skip
"""Operators whose results are kept and not recomputed."""

_REDUCTION = 4
"""A result this many times smaller than its input, such as a sum, is kept as well."""


class Linearization(NamedTuple):
    """The graphs of a gradient and of its derivative."""

    gradient: GraphModule
    """``inputs -> (results, what is kept)``; the results are a gradient by each parameter and the loss's outputs."""
    derivative: GraphModule
    """``(inputs needed, what is kept, cotangents) -> products``."""
    inputs: list[int]
    """Positions of the inputs needed."""


def linearize(loss: FlatLoss, indices: Indices, inputs: Sequence[Tensor]) -> Linearization:
    """Return the graphs of a gradient and of its derivative for inputs like these."""
    count, split = len(inputs), len(indices.params)

    def both(*given: Tensor) -> tuple[Tensor, ...]:
        inputs, vector = given[:count], given[count:]
        gradient, tangents, outputs = gradient_along(loss, indices, inputs, vector)
        return *gradient[:split], *outputs, *tangents

    vector = [torch.zeros_like(tensor) for tensor in select(inputs, indices.params)]
    whole = simplified(both, [*inputs, *vector])
    return divided(whole, count, split + len(indices.batch))


def divided(whole: GraphModule, count: int, products: int, states: int = 0) -> Linearization:
    """Divide a graph by what depends on its cotangents.

    Args:
        whole: ``(inputs, cotangents) -> (results, states, products)``; only the products depend on the cotangents.
        count: number of inputs.
        products: number of products.
        states: number of intermediate states, which are kept if they are needed, whatever they cost.
    """
    nodes = list(whole.graph.nodes)
    (output,) = whole.graph.find_nodes(op="output")
    results: tuple[Node, ...] = output.args[0]
    end = len(results) - products
    first, always, second = results[: end - states], results[end - states : end], results[end:]
    placeholders = whole.graph.find_nodes(op="placeholder")
    dependent = set(placeholders[count:])
    for node in nodes:
        if node.op != "output" and any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    needed = {source for node in dependent for source in node.all_input_nodes if source not in dependent}
    needed |= {node for node in second if node not in dependent}
    kept, recomputed = _choose_kept(needed, set(always))
    inputs_needed = [index for index, node in enumerate(placeholders[:count]) if node in kept]
    kept_results = [node for node in nodes if node in kept and node.op != "placeholder"]
    gradient = _subgraph(whole, placeholders[:count], set(nodes) - dependent, (*first, *kept_results))
    derivative = _subgraph(
        whole,
        [*(placeholders[i] for i in inputs_needed), *kept_results, *placeholders[count:]],
        dependent | recomputed,
        second,
    )
    return Linearization(gradient, derivative, inputs_needed)


def _choose_kept(needed: Iterable[Node], always: Set[Node]) -> tuple[set[Node], set[Node]]:
    """Return which nodes to keep and which to recompute, so that the needed ones are available.

    Args:
        needed: the needed nodes.
        always: nodes to keep if they are met, whatever they cost.
    """
    kept, recomputed = set(), set()
    waiting = list(needed)
    while waiting:
        node = waiting.pop()
        if node in kept or node in recomputed:
            continue
        if node.op == "placeholder" or node in always or _is_kept(node):
            kept.add(node)
        else:
            recomputed.add(node)
            waiting += node.all_input_nodes
    return kept, recomputed


def _is_kept(node: Node) -> bool:
    """Return whether a node is too costly to be recomputed."""
    if node.op != "call_function" or not isinstance(value := node.meta["val"], Tensor):
        return False
    # Of an operator with several results, single results are kept.
    source = node.args[0] if node.target is operator.getitem else node
    assert isinstance(source, Node)
    if overload_packet(source) in _COSTLY:
        return True
    sources = {given: given.meta["val"] for given in source.all_input_nodes}
    tensors = {given: value for given, value in sources.items() if isinstance(value, Tensor)}
    is_view = overload_packet(source) in (_aten.select, _aten.slice, _aten.split, _aten.unbind)
    if not is_view and tensors and value.numel() * _REDUCTION <= max(given.numel() for given in tensors.values()):
        return True
    # If nothing else uses a costly result, what is computed from it is kept in its place: a convolution's bias is then
    # added together with the convolution.
    return any(
        len(given.users) == 1 and tensor.numel() == value.numel() and tensor.dtype == value.dtype and _is_kept(given)
        for given, tensor in tensors.items()
    )


def _subgraph(whole: GraphModule, inputs: Sequence[Node], nodes: set[Node], outputs: Sequence[Node]) -> GraphModule:
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
