"""Policies that act at once, of one architecture or of several."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

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
            batched = trace(vmap(of_one), [states, *stacked])
        except Exception:  # operators that vmap or the recording does not support, data-dependent code
            return lambda states: torch.stack(
                [of_one(own, *(tensor[number] for tensor in stacked)) for number, own in enumerate(states.unbind())]
            )
        return lambda states: batched(states, *stacked)
