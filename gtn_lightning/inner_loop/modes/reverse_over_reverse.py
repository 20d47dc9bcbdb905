"""The derivative of an inner gradient by reverse mode, on a graph that exists for one inner step at a time."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from gtn_lightning.inner_loop.autograd_graph import naming_operator, reject_silently_wrong
from gtn_lightning.inner_loop.loss import evaluated
from gtn_lightning.inner_loop.modes.base import dense
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.traits import Traits
from gtn_lightning.inner_loop.types import Batch, Cotangents, LossFn, Params, Products


class Recomputed(NamedTuple):
    """The loss and the gradient that were recomputed for the products."""

    loss: Tensor
    grads: Params


def reverse_over_reverse(
    loss_fn: LossFn,
    params: Params,
    buffers: Mapping[str, Tensor],
    batch: Batch,
    cotangents: Cotangents,
    wanted: Sequence[bool],
    traits: Traits,
    context: ReplayContext,
) -> tuple[Products, Recomputed]:
    """Compute an inner gradient with its graph and differentiate it.

    Args:
        loss_fn, params, buffers, batch: as for the inner gradient.
        cotangents: of the gradient and the loss, at least one of them.
        wanted: for each tensor of the batch, whether its product is needed.
        traits: the loss's traits.
        context: the random and autocast state in which the gradient is computed.

    Returns:
        The products, and the recomputed gradient and loss.

    Raises:
        InnerLoopError: if the loss has no second derivative, or a wrong one.
    """
    # The inner gradient is taken w.r.t. every parameter, but only w.r.t. the wanted tensors of the batch.
    variables = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    inputs = [tensor.detach().requires_grad_(want) for tensor, want in zip(batch, wanted, strict=True)]
    with torch.enable_grad(), naming_operator(), ExitStack() as stack:
        with context.restored():
            found = stack.enter_context(evaluated(loss_fn, variables, buffers, inputs, traits, context))
            reject_silently_wrong(found.graph)
            grads = torch.autograd.grad(found.loss, list(variables.values()), create_graph=True, materialize_grads=True)
            grads = tuple(dense(grad) for grad in grads)
        found.inner.end()
        # As in mode reverse, their gradient is computed in the autocast state of the outer backward pass.
        outputs = [
            (found.loss, cotangents.loss),
            *((g, cotangents.grads[n]) for n, g in zip(variables, grads, strict=True)),
        ]
        pairs = [(out, cotangent) for out, cotangent in outputs if cotangent is not None and out.requires_grad]
        sources = [*variables.values(), *(tensor for tensor, want in zip(inputs, wanted, strict=True) if want)]
        products: Sequence[Tensor | None] = [None] * len(sources)
        if pairs:
            products = torch.autograd.grad(
                [out for out, _ in pairs], sources, [cotangent for _, cotangent in pairs], allow_unused=True
            )
    rest = iter(products[len(variables) :])
    by_params = dict(zip(variables, products, strict=False))
    by_batch = [next(rest) if want else None for want in wanted]
    return Products(by_params, by_batch), Recomputed(found.loss, dict(zip(variables, grads, strict=True)))
