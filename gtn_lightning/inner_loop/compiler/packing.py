"""Packs the small tensors that a program keeps for its derivative into one.

Each tensor that passes from one program to the other costs about a microsecond, more than the arithmetic of a small
layer.
"""

import math
import operator

import torch
from torch import Tensor
from torch.fx import Node

from gtn_lightning.inner_loop.compiler.partition import Linearization

_aten = torch.ops.aten

SMALL = 16 * 1024
"""Maximum number of values of a tensor that is copied into the packed one."""


def packed(graphs: Linearization, results: int) -> Linearization:
    """Return graphs that pass all small kept tensors of the most frequent type as one, the last of what is kept.

    Args:
        graphs: the graphs of some results and of their derivative.
        results: number of results.
    """
    gradient, derivative = graphs.gradient, graphs.derivative
    (output,) = gradient.graph.find_nodes(op="output")
    outputs: list[Node] = list(output.args[0])
    kept = outputs[results:]
    small = [number for number, node in enumerate(kept) if _is_small(node)]
    types = [kept[number].meta["val"].dtype for number in small]
    if not types:
        return graphs
    common = max(set(types), key=types.count)
    small = [number for number, kind in zip(small, types, strict=True) if kind == common]
    chosen = set(small)
    with gradient.graph.inserting_before(output):
        flat = [gradient.graph.call_function(_aten.reshape.default, (kept[number], [-1])) for number in small]
        together = gradient.graph.call_function(_aten.cat.default, (flat,))
    rest = [node for number, node in enumerate(kept) if number not in chosen]
    output.args = ((*outputs[:results], *rest, together),)
    gradient.recompile()

    placeholders: list[Node] = derivative.graph.find_nodes(op="placeholder")
    begin = len(graphs.inputs)
    given = placeholders[begin : begin + len(kept)]
    sizes = [math.prod(kept[number].meta["val"].shape) for number in small]
    # All placeholders come first, the packed one before the cotangents.
    with derivative.graph.inserting_before(placeholders[begin + len(kept)]):
        whole = derivative.graph.placeholder("packed")
    # The compiler asks placeholders for their type; the others have it from the trace.
    whole.meta["val"] = torch.cat([kept[number].meta["val"].reshape(-1) for number in small])
    with derivative.graph.inserting_after(placeholders[-1]):
        parts = derivative.graph.call_function(_aten.split_with_sizes.default, (whole, sizes))
    at = parts
    for place, number in enumerate(small):
        with derivative.graph.inserting_after(at):
            part = derivative.graph.call_function(operator.getitem, (parts, place))
        with derivative.graph.inserting_after(part):
            at = derivative.graph.call_function(_aten.view.default, (part, list(given[number].meta["val"].shape)))
        given[number].replace_all_uses_with(at)
        derivative.graph.erase_node(given[number])
    derivative.recompile()
    return graphs


def _is_small(node: Node) -> bool:
    value = node.meta["val"]
    return isinstance(value, Tensor) and value.numel() <= SMALL and value.is_contiguous() and value.ndim > 0
