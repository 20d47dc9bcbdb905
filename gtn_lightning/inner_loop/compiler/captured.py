"""A loss as dynamo captured it: a graph of flat tensors, and which of them are parameters, batch and buffers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from gtn_lightning.inner_loop.autograd_graph import inspect_graph
from gtn_lightning.inner_loop.compiler.graphs import Indices, differentiable
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.stopped_gradients import STOP, InnerPass, LossObserver
from gtn_lightning.inner_loop.types import InnerGradient, Products

Key = tuple[object, ...]
"""Identifies a program compiled from a captured loss."""


class CapturedLoss:
    """What dynamo calls in place of the loss; it records its flat inputs.

    Args:
        graph: what dynamo captured.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.inputs: tuple[Tensor, ...] = ()
        """Flat inputs of the current call."""
        self.outputs = 0
        """Number of outputs of the graph, 0 before `bind`."""
        self.is_observed = False
        """Whether mode ``fused`` has seen that it holds for every step of an inner loop."""
        self._kept: dict[Key, Any] = {}
        self._operators = 0
        self._examples: Sequence[Tensor] = ()
        self._drew = False
        self._observer: LossObserver | None = None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor | None]:
        """Return the outputs, real ones only the first time, for `bind`."""
        self.inputs = inputs
        if self.outputs:
            return (None,) * self.outputs
        # Observed like the first evaluation of an uncompiled loss, and without a change of the random state.
        context = ReplayContext(inputs[0].device, foreign=False)
        self._observer = LossObserver(InnerPass(), inputs)
        with self._observer:
            self._examples = self.graph(*inputs)
        self._drew = context.drew()
        if self._drew:
            context.rewind()
        return self._examples

    @property
    def is_bound(self) -> bool:
        """Whether the flat inputs and outputs are identified."""
        return self.outputs > 0

    def bind(
        self,
        params: Mapping[str, Tensor],
        batch: Sequence[Tensor],
        buffers: Mapping[str, Tensor],
        loss: Tensor,
        new_buffers: Mapping[str, Tensor],
    ) -> None:
        """Identify the arguments and results of the first call among the flat inputs and outputs.

        Raises:
            RuntimeError: if the graph is not the whole loss, or cannot be differentiated.
        """
        inputs, outputs = self.inputs, self._examples
        found = {name: _index(inputs, tensor) for name, tensor in params.items()}
        used = {name: index for name, index in found.items() if index is not None}
        loss_index = _index(outputs, loss)
        if loss_index is None:
            raise RuntimeError("the loss is not computed from parameters and batch")
        self._reject_observed(outputs[loss_index], inputs)
        self._batch = [_index(inputs, tensor) for tensor in batch]
        self._buffers = {name: _index(outputs, tensor) for name, tensor in new_buffers.items()}
        for name, index in self._buffers.items():
            if index is None and new_buffers[name] is not buffers.get(name):
                raise RuntimeError(f"buffer {name} is neither computed nor passed on")
        self._buffers_given = {name: _index(inputs, tensor) for name, tensor in buffers.items()}
        self._names = list(used)
        self._indices = Indices(tuple(used.values()), (), loss_index)
        self.graph = differentiable(self.graph, inputs)
        self.outputs = len(outputs)
        self._examples = ()

    def _reject_observed(self, loss: Tensor, inputs: Sequence[Tensor]) -> None:
        """Raise if a compiled program would not repeat the loss, or would differentiate it wrongly."""
        assert self._observer is not None
        observer, self._observer = self._observer, None
        if self._drew or observer.generators:
            raise RuntimeError("the loss draws random numbers")
        if observer.hooked or observer.nested or observer.made or observer.lost or observer.asymmetric:
            raise RuntimeError("the loss changes its gradients")
        if STOP in inspect_graph(loss, inputs).names:
            raise RuntimeError("the loss stops gradients, by detach() or no_grad()")

    def indices(self, wanted: Sequence[bool] = ()) -> Indices:
        """Return the positions of the parameters, the loss and the wanted tensors of the batch."""
        batch = tuple(index for index, want in zip(self._batch, wanted, strict=False) if want and index is not None)
        return self._indices._replace(batch=batch)

    def repeatable(self, count: int) -> bool:
        """Return whether the loss can be evaluated again with the buffers that it returned.

        Args:
            count: number of its flat inputs.
        """
        taken = [*self._indices.params, *self._batch, *self._buffers_given.values()]
        found = [index for index in taken if index is not None]
        return len(set(found)) == len(found) <= count and self._buffers.keys() == self._buffers_given.keys()

    def constants(self, count: int) -> list[int]:
        """Return the positions of flat inputs that are neither parameters, batch nor buffers, such as frozen weights.

        Args:
            count: number of flat inputs.
        """
        taken = {*self._indices.params, *self._batch, *self._buffers_given.values()}
        return [index for index in range(count) if index not in taken]

    def evaluated(
        self,
        constants: Mapping[int, Tensor],
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Sequence[Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the buffers after it; a pure function of tensors, which can be traced.

        Args:
            constants: the flat inputs at the positions that `constants` returns.
            params, buffers, batch: as for the loss.
        """
        given = dict(constants)
        given |= {index: params[name] for name, index in zip(self._names, self._indices.params, strict=True)}
        given |= {index: tensor for index, tensor in zip(self._batch, batch, strict=True) if index is not None}
        given |= {index: buffers[name] for name, index in self._buffers_given.items() if index is not None}
        outputs = self.graph(*(given[index] for index in range(len(given))))
        after = {name: buffers[name] if index is None else outputs[index] for name, index in self._buffers.items()}
        return outputs[self._indices.loss], after

    @property
    def operators(self) -> int:
        """Number of operators of the loss."""
        if not self._operators:
            self._operators = sum(node.op not in ("placeholder", "output") for node in self.graph.graph.nodes)
        return self._operators

    def once(self, key: Key, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key; made the first time."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def vector(self, vector: Mapping[str, Tensor]) -> list[Tensor]:
        """Return a direction in parameter space as flat tensors, without the parameters that the loss does not use."""
        return [vector[name] for name in self._names]

    def split(self, results: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the gradient with the loss's outputs, and the results after them."""
        end = len(self._names) + self.outputs
        return results[:end], results[end:]

    def inner_gradient(
        self, results: Sequence[Tensor], params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
    ) -> InnerGradient:
        """Return flat results, the gradient and then the loss's outputs, by name."""
        outputs = results[len(self._names) :]
        after = {name: buffers[name] if index is None else outputs[index] for name, index in self._buffers.items()}
        return InnerGradient(self._by_name(results, params), outputs[self._indices.loss], after)

    def products(self, results: Sequence[Tensor], vector: Mapping[str, Tensor], wanted: Sequence[bool]) -> Products:
        """Return flat results, the products by parameters and then by the batch, by name and position."""
        rest = iter(results[len(self._names) :])
        pairs = zip(self._batch, wanted, strict=True)
        batch = [next(rest) if want and index is not None else None for index, want in pairs]
        return Products({**self._by_name(results, vector)}, batch)

    def _by_name(self, results: Sequence[Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(zip(self._names, results, strict=False))
        return {name: found[name] if name in found else torch.zeros_like(tensor) for name, tensor in like.items()}


def _index(tensors: Sequence[Tensor], tensor: Tensor) -> int | None:
    return next((index for index, other in enumerate(tensors) if other is tensor), None)
