"""A loss as dynamo captured it: a graph of flat tensors, and which of them are the parameters, the batch and so on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from gtn_lightning.inner_loop.following import STOP, Following, InnerPass
from gtn_lightning.inner_loop.modes.graphs import Places, differentiable
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Products
from gtn_lightning.inner_loop.operators import look_through
from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.types import InnerGradient

Key = tuple[object, ...]
"""What tells the programs made of one captured loss apart."""


class Captured:
    """What dynamo calls in place of the loss; it only takes note of its flat inputs.

    Args:
        graph: what dynamo captured.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.inputs: tuple[Tensor, ...] = ()
        """Flat inputs of the present call."""
        self.outputs = 0
        """How many the graph has."""
        self._made: dict[Key, Any] = {}
        self._examples: Sequence[Tensor] = ()
        self._drew = False
        self._following: Following | None = None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor | None]:
        """Return what dynamo takes for the outputs: real ones the first time, when ``place`` looks at them."""
        self.inputs = inputs
        if self.outputs:
            return (None,) * self.outputs
        # Watched, as the first evaluation of an uncompiled loss is, and without a trace: it is nobody's step.
        surroundings = Surroundings(inputs[0].device, foreign=False)
        self._following = Following(InnerPass(), inputs)
        with self._following:
            self._examples = self.graph(*inputs)
        self._drew = surroundings.changed()
        if self._drew:
            surroundings.rewind()
        return self._examples

    @property
    def placed(self) -> bool:
        """Whether it is known which flat inputs and outputs are what."""
        return self.outputs > 0

    def place(
        self,
        params: Mapping[str, Tensor],
        batch: Sequence[Tensor],
        buffers: Mapping[str, Tensor],
        loss: Tensor,
        new_buffers: Mapping[str, Tensor],
    ) -> None:
        """Find the arguments and results of the first call among the flat inputs and outputs.

        Raises:
            RuntimeError: if the graph is not all of the loss, or cannot be differentiated.
        """
        inputs, outputs = self.inputs, self._examples
        found = {name: _index(inputs, tensor) for name, tensor in params.items()}
        used = {name: at for name, at in found.items() if at is not None}
        at = _index(outputs, loss)
        if at is None:
            raise RuntimeError("the loss is not computed from parameters and batch")
        self._reject_followed(outputs[at], inputs)
        self._batch = [_index(inputs, tensor) for tensor in batch]
        self._buffers = {name: _index(outputs, tensor) for name, tensor in new_buffers.items()}
        for name, place in self._buffers.items():
            if place is None and new_buffers[name] is not buffers.get(name):
                raise RuntimeError(f"buffer {name} is neither computed nor passed on")
        self._names = list(used)
        self._places = Places(tuple(used.values()), (), at)
        self.graph = differentiable(self.graph, inputs)
        self.outputs = len(outputs)
        self._examples = ()

    def _reject_followed(self, loss: Tensor, inputs: Sequence[Tensor]) -> None:
        """Raise if the loss does what a compiled program would not repeat, or would differentiate wrongly."""
        assert self._following is not None
        following, self._following = self._following, None
        if self._drew or following.generators:
            raise RuntimeError("the loss draws random numbers")
        if following.hooked or following.nested or following.made or following.lost or following.asymmetric:
            raise RuntimeError("the loss changes its gradients")
        if STOP in look_through(loss, inputs).names:
            raise RuntimeError("the loss stops gradients, by detach() or no_grad()")

    def places(self, wanted: Sequence[bool] = ()) -> Places:
        """Return where the parameters and the loss are, and of the batch what is wanted."""
        batch = tuple(at for at, want in zip(self._batch, wanted, strict=False) if want and at is not None)
        return self._places._replace(batch=batch)

    def once(self, key: Key, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key, made if it is not there yet."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def vector(self, vector: Mapping[str, Tensor]) -> list[Tensor]:
        """Return a direction in parameter space as flat inputs: the loss may leave parameters unused."""
        return [vector[name] for name in self._names]

    def split(self, results: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the gradient and the loss's outputs, and what comes after them."""
        end = len(self._names) + self.outputs
        return results[:end], results[end:]

    def inner_gradient(
        self, results: Sequence[Tensor], params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
    ) -> InnerGradient:
        """Return flat results, the gradient and then the loss's outputs, by name."""
        outputs = results[len(self._names) :]
        after = {name: buffers[name] if at is None else outputs[at] for name, at in self._buffers.items()}
        return InnerGradient(self._by_name(results, params), outputs[self._places.loss], after)

    def products(self, results: Sequence[Tensor], vector: Mapping[str, Tensor], wanted: Sequence[bool]) -> Products:
        """Return flat results, the products by parameters and then by the batch, by name and place."""
        rest = iter(results[len(self._names) :])
        places = zip(self._batch, wanted, strict=True)
        batch = [next(rest) if want and at is not None else None for at, want in places]
        return Products({**self._by_name(results, vector)}, batch)

    def _by_name(self, results: Sequence[Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(zip(self._names, results, strict=False))
        return {name: found[name] if name in found else torch.zeros_like(tensor) for name, tensor in like.items()}


def _index(tensors: Sequence[Tensor], tensor: Tensor) -> int | None:
    return next((index for index, other in enumerate(tensors) if other is tensor), None)
