"""Takes out of a graph of tensor operators what is computed with zeros."""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_aten = torch.ops.aten

_ZEROS = {_aten._efficientzerotensor, _aten.new_zeros, _aten.zeros, _aten.zeros_like}

_MOVES = {
    _aten.alias, _aten.clone, _aten.detach, _aten.expand, _aten.neg, _aten.permute, _aten.reshape, _aten.select,
    _aten.slice, _aten.squeeze, _aten.sum, _aten.mean, _aten.t, _aten.transpose, _aten.unsqueeze, _aten.view,
    _aten._reshape_alias, _aten._to_copy, _aten._unsafe_view, _aten.div, _aten.threshold_backward,
}  # fmt: skip
"""What makes zeros of zeros, given as the first argument."""

_PRODUCTS = {_aten.mul, _aten.mm, _aten.bmm}
"""What makes zeros as soon as one argument is zero."""


def drop_zeros(graph: Graph) -> None:
    """Take out what is computed with zeros: forward mode puts them in place of the tangents of constants.

    What is left of them gets memory: torch's own are tensors without any, which inductor (torch 2.13) has kernels read.
    """
    zeros: set[Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and _is_zero(node, zeros):
            zeros.add(node)
    for node in list(graph.nodes):
        if node.op != "call_function" or node in zeros or packet(node) not in (_aten.add, _aten.sub):
            continue
        one, other = (*node.args, None)[:2]
        if isinstance(one, Node) and other in zeros and _alike(node, one):
            node.replace_all_uses_with(one)
        if packet(node) is not _aten.add or node.kwargs:
            continue
        if isinstance(other, Node) and one in zeros and _alike(node, other):
            node.replace_all_uses_with(other)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node in zeros and isinstance(node.meta["val"], Tensor):
            value = node.meta["val"]
            with graph.inserting_before(node):
                full = graph.call_function(
                    _aten.full.default,
                    (list(value.shape), 0),
                    {"dtype": value.dtype, "device": value.device, "pin_memory": False},
                )
            full.meta = dict(node.meta)
            node.replace_all_uses_with(full)
    graph.eliminate_dead_code()


def _is_zero(node: Node, zeros: set[Node]) -> bool:
    called, args = packet(node), node.args
    if called in _ZEROS:
        return True
    if called in (_aten.full, _aten.full_like, _aten.scalar_tensor):
        return bool(args[0 if called is _aten.scalar_tensor else 1] == 0)
    if called in _MOVES:
        return args[0] in zeros
    if called in _PRODUCTS:
        return any(argument in zeros for argument in args)
    if called in (_aten.add, _aten.sub):
        return all(argument in zeros for argument in args[:2])
    if called in (_aten.stack, _aten.cat):
        return all(tensor in zeros for tensor in args[0])  # type: ignore[union-attr]
    if called is _aten.constant_pad_nd:
        return args[0] in zeros and (len(args) < 3 or bool(args[2] == 0))
    if called is _aten.convolution:
        return args[2] is None and (args[0] in zeros or args[1] in zeros)
    if node.target is operator.getitem and isinstance(args[0], Node):
        source = args[0]
        if packet(source) is _aten.convolution_backward:
            by, images, filters = source.args[:3]
            return by in zeros or (filters, images, None)[int(args[1])] in zeros  # type: ignore[arg-type,operator]
    return False


def packet(node: Node) -> Any:
    """Return an operator whatever the overload."""
    return getattr(node.target, "overloadpacket", node.target)


def _alike(one: Node, other: Node) -> bool:
    a, b = one.meta["val"], other.meta["val"]
    return bool(a.shape == b.shape and a.dtype == b.dtype)
