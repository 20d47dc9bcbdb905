"""Removes from a graph of tensor operators what is computed with zeros."""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from gtn_lightning.inner_loop.torch_internals import COPIES, ZERO_TENSOR

_aten = torch.ops.aten

_ZEROS = {ZERO_TENSOR, _aten.new_zeros, _aten.zeros, _aten.zeros_like}

_LINEAR = COPIES | {
    _aten.alias, _aten.clone, _aten.detach, _aten.expand, _aten.neg, _aten.permute, _aten.reshape, _aten.select,
    _aten.slice, _aten.squeeze, _aten.sum, _aten.mean, _aten.t, _aten.transpose, _aten.unsqueeze, _aten.view,
    _aten.div, _aten.threshold_backward,
}  # fmt: skip
"""Operators that return zeros if their first argument is zero."""

_PRODUCTS = {_aten.mul, _aten.mm, _aten.bmm}
"""Operators that return zeros if any argument is zero."""


def drop_zeros(graph: Graph) -> None:
    """Remove what is computed with zeros, which forward mode uses as tangents of constants.

    Remaining zeros get memory: torch's own have none, and inductor crashes on them, see `torch_internals.ZERO_TENSOR`.
    """
    zeros: set[Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and _is_zero(node, zeros):
            zeros.add(node)
    for node in list(graph.nodes):
        if node.op != "call_function" or node in zeros or overload_packet(node) not in (_aten.add, _aten.sub):
            continue
        one, other = (*node.args, None)[:2]
        if isinstance(one, Node) and other in zeros and _alike(node, one):
            node.replace_all_uses_with(one)
        if overload_packet(node) is not _aten.add or node.kwargs:
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
    called, args = overload_packet(node), node.args
    if called in _ZEROS:
        return True
    if called in (_aten.full, _aten.full_like, _aten.scalar_tensor):
        return bool(args[0 if called is _aten.scalar_tensor else 1] == 0)
    if called in _LINEAR:
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
        if overload_packet(source) is _aten.convolution_backward:
            by, images, filters = source.args[:3]
            return by in zeros or (filters, images, None)[int(args[1])] in zeros  # type: ignore[arg-type,operator]
    return False


def overload_packet(node: Node) -> Any:
    """Return a node's operator, whichever overload of it is called."""
    return getattr(node.target, "overloadpacket", node.target)


def _alike(one: Node, other: Node) -> bool:
    a, b = one.meta["val"], other.meta["val"]
    return bool(a.shape == b.shape and a.dtype == b.dtype)
