"""Policies that act at once, of one architecture or of several."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx import Graph, GraphModule, Node, map_arg

from gtn_lightning.inner_loop import Buffers, Functional, Params, difference
from gtn_lightning.inner_loop.torch_internals import trace

Member = tuple[Functional, Params, Buffers]
"""A policy: a network as a pure function, its parameters and its buffers."""


class Policies:
    """Several networks, each with states of its own, evaluated at once without gradient.

    Networks of one architecture are evaluated as one batched graph of operators, recorded at the first call: in an
    episode of hundreds of time steps, evaluating a small network takes less time than Python's own part of it.

    Args:
        members: the networks; they act in evaluation mode.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._groups: list[list[int]] = []
        for number, (network, _, _) in enumerate(members):
            for group in self._groups:
                if difference(members[group[0]][0].module, network.module) is None:
                    group.append(number)
                    break
            else:
                self._groups.append([number])
        self._calls: list[Callable[[Tensor], Tensor]] = []
        # The places of the members, group by group, and back.
        self._order = torch.tensor([number for group in self._groups for number in group])
        self._back = self._order.argsort()

    def __call__(self, states: Tensor) -> Tensor:
        """Return the networks' outputs.

        Args:
            states: ``[M, E, *shape]``, E states of each of the M networks.

        Returns:
            ``[M, E, outputs]``.
        """
        if len(self._groups) == 1:
            parts = [states]
        else:
            parts = list(states[self._order.to(states.device)].split([len(group) for group in self._groups]))
        if not self._calls:
            self._calls = [
                self._recorded([self._members[number] for number in group], part)
                for group, part in zip(self._groups, parts, strict=True)
            ]
        outputs = [call(part) for call, part in zip(self._calls, parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)[self._back.to(states.device)]

    def _recorded(self, members: Sequence[Member], states: Tensor) -> Callable[[Tensor], Tensor]:
        network, params, buffers = members[0]
        stacked = [torch.stack([member[1][name] for member in members]).detach() for name in params]
        stacked += [torch.stack([member[2][name] for member in members]).detach() for name in buffers]

        def of_one(states: Tensor, *tensors: Tensor) -> Tensor:
            own = dict(zip([*params, *buffers], tensors, strict=True))
            outputs, _ = network(
                {name: own[name] for name in params}, {name: own[name] for name in buffers}, states, training=False
            )
            assert isinstance(outputs, Tensor)
            return outputs

        try:
            batched = folded(trace(vmap(of_one), [states, *stacked]), [None, *stacked])
        except Exception:  # operators that vmap or the recording does not support, data-dependent code
            return lambda states: torch.stack(
                [of_one(own, *(tensor[number] for tensor in stacked)) for number, own in enumerate(states.unbind())]
            )
        # States of another number or shape, as in a test, are recorded anew.
        return lambda own: batched(own) if own.shape == states.shape else self._recorded(members, own)(own)


def folded(graph: GraphModule, inputs: Sequence[Tensor | None]) -> Callable[[Tensor], Tensor]:
    """Return a recorded function of its one input that varies: what depends on the others alone is computed now.

    Reshapes that change nothing are left out too. Both save calls of operators, which take longer than small networks.

    Args:
        graph: the recorded function, with one output.
        inputs: its inputs; None for the one that varies.
    """
    values: dict[Node, Any] = {}
    kept = Graph()
    copies: dict[Node, Node] = {}
    constants: dict[str, Tensor] = {}
    given = iter(inputs)

    def copied(node: Node) -> Node:
        if node not in copies:  # a constant
            name = f"constant_{len(constants)}"
            constants[name] = values[node]
            copies[node] = kept.get_attr(name)
        return copies[node]

    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                value = next(given)
                if value is None:
                    copies[node] = kept.placeholder(node.name)
                else:
                    values[node] = value
            elif node.op == "get_attr":
                values[node] = attrgetter(node.target)(graph)
            elif node.op == "output":
                (result,) = node.all_input_nodes
                kept.output(copied(result))
            elif all(source in values for source in node.all_input_nodes):
                values[node] = node.target(*map_arg(node.args, values.get), **map_arg(node.kwargs, values.get))
            elif _changes_nothing(node):
                copies[node] = copied(node.all_input_nodes[0])
            else:
                copies[node] = kept.node_copy(node, copied)
    root = nn.Module()
    for name, value in constants.items():
        root.register_buffer(name, value)
    call: Callable[[Tensor], Tensor] = GraphModule(root, kept).forward
    return call


RESHAPES = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
"""Operators that vmap and the recording add between others."""


def _changes_nothing(node: Node) -> bool:
    if node.target not in RESHAPES:
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return bool(before.shape == after.shape and before.stride() == after.stride())
