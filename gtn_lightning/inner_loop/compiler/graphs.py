"""The derivatives of a captured loss as graphs of tensor operators.

A graph is a ``torch.fx`` module of ATen operators, which takes tensors and returns a tuple of tensors.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functionalize, grad, jvp
from torch.fx import GraphModule

from gtn_lightning.inner_loop.compiler.zeros import drop_zeros
from gtn_lightning.inner_loop.torch_internals import is_vmap, set_grad_enabled, trace, transform_name

FlatLoss = Callable[..., Sequence[Tensor]]
"""A captured loss: ``inputs -> outputs``."""


class Indices(NamedTuple):
    """Positions of a captured loss's arguments and results among its flat inputs and outputs."""

    params: tuple[int, ...]
    """Inputs: the parameters."""
    batch: tuple[int, ...]
    """Inputs: the tensors of the batch whose product is needed."""
    loss: int
    """Output: the loss."""


def gradient_graph(loss: FlatLoss, indices: Indices, inputs: Sequence[Tensor]) -> GraphModule:
    """Return ``inputs -> (gradient by each parameter, outputs of the loss)`` for inputs like these."""

    def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
        by_params, outputs = _gradient(loss, indices, inputs)(select(inputs, indices.params))
        return *by_params, *outputs

    return simplified(gradient, inputs)


def product_graph(loss: FlatLoss, indices: Indices, inputs: Sequence[Tensor], with_loss: bool) -> GraphModule:
    """Return the graph of forward over reverse for inputs like these.

    Args:
        loss: ``inputs -> outputs``.
        indices: positions of its arguments and results.
        inputs: flat inputs.
        with_loss: whether the loss has a cotangent besides the gradient.

    Returns:
        ``(inputs, vector[, cotangent of the loss]) -> (product by each parameter, by each tensor of the batch)``.
    """
    count, split = len(inputs), len(indices.params)

    def products(*given: Tensor) -> tuple[Tensor, ...]:
        inputs, vector = given[:count], given[count : count + split]
        gradient, tangents, _ = gradient_along(loss, indices, inputs, vector)
        if with_loss:
            tangents = tuple(t + given[-1] * value for value, t in zip(gradient, tangents, strict=True))
        return tangents

    vector = [torch.zeros_like(tensor) for tensor in select(inputs, indices.params)]
    return simplified(products, [*inputs, *vector, *[inputs[0].new_zeros(())] * with_loss])


def gradient_along(
    loss: FlatLoss, indices: Indices, inputs: Sequence[Tensor], vector: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the gradient by parameters and batch, its derivative along a vector, and the outputs of the loss."""
    found: tuple[Any, ...] = jvp(
        _gradient(loss, indices, inputs), (select(inputs, indices.params),), (vector,), has_aux=True
    )
    gradient, derivative, outputs = found
    return gradient, derivative, outputs


def differentiable(loss: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """Return a captured loss as it is, or as a graph of tensor operators if it uses ``vmap``.

    A captured transform is valid only at the nesting level at which it was captured, so it cannot be differentiated.

    Raises:
        RuntimeError: if the loss has a custom gradient, uses another transform of ``torch.func`` than ``vmap``, or
            ``vmap`` together with ``no_grad``: these would be lost.
    """
    targets = {node.target for node in loss.graph.nodes if node.op == "call_function"}
    with_vmap = any(map(is_vmap, targets))
    if lost := {name for target in targets if not is_vmap(target) and (name := transform_name(target))}:
        raise RuntimeError(f"the loss uses {', '.join(sorted(lost))}")
    if with_vmap and set_grad_enabled in targets:
        raise RuntimeError("the loss uses vmap together with no_grad")
    return trace(loss, inputs) if with_vmap else loss


def simplified(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    """Return a function as a graph for inputs like these, without in-place operators and operations with zeros."""
    # Traced twice, because a graph with in-place operators cannot be split.
    module = trace(functionalize(trace(function, inputs)), inputs)
    drop_zeros(module.graph)
    module.recompile()
    return module


def select(tensors: Sequence[Tensor], indices: Iterable[int]) -> tuple[Tensor, ...]:
    """Return the tensors at these positions."""
    return tuple(tensors[index] for index in indices)


def _gradient(
    loss: FlatLoss, indices: Indices, inputs: Sequence[Tensor]
) -> Callable[[tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Return ``params -> (gradient by parameters and batch, outputs)``."""

    def of(params: tuple[Tensor, ...], batch: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        given = list(inputs)
        for index, tensor in zip((*indices.params, *indices.batch), (*params, *batch), strict=True):
            given[index] = tensor
        outputs = tuple(loss(*given))
        return outputs[indices.loss], outputs

    gradient = grad(of, argnums=(0, 1), has_aux=True)

    def flat(params: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        (by_params, by_batch), outputs = gradient(params, select(inputs, indices.batch))
        return (*by_params, *by_batch), outputs

    return flat
