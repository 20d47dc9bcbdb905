"""The derivative of an inner gradient by reverse mode, on a graph that exists for one inner step at a time."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from gtn_lightning.inner_loop.loss import evaluated
from gtn_lightning.inner_loop.modes.base import dense
from gtn_lightning.inner_loop.operators import named_operator, reject_silently_wrong
from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.traits import Traits
from gtn_lightning.inner_loop.types import Batch, LossFn, Params


class Cotangents(NamedTuple):
    """The meta-loss's gradient w.r.t. an inner gradient and its loss."""

    grads: Mapping[str, Tensor | None]
    """Per parameter, w.r.t. its inner gradient; None for zero."""
    loss: Tensor | None = None
    """W.r.t. the inner loss; None for zero, the rule."""

    @property
    def vector(self) -> bool:
        """Whether there is anything to multiply the Hessian with."""
        return any(cotangent is not None for cotangent in self.grads.values())


class Products(NamedTuple):
    """The meta-loss's gradient w.r.t. what an inner gradient was computed from."""

    params: dict[str, Tensor | None]
    batch: list[Tensor | None]


class Recomputed(NamedTuple):
    """The loss and the gradient as they were on the way to the products."""

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
    surroundings: Surroundings,
) -> tuple[Products, Recomputed]:
    """Compute an inner gradient with its graph and walk back through it.

    Args:
        loss_fn, params, buffers, batch: as for the inner gradient.
        cotangents: of the gradient and the loss, at least one of them.
        wanted: for each tensor of the batch, whether its product is asked for.
        traits: what is known of the loss.
        surroundings: in which the gradient is computed.

    Returns:
        The products, and the gradient and loss that were computed on the way.

    Raises:
        InnerLoopError: if the loss has no second derivative, or a wrong one.
    """
    # The inner gradient is taken w.r.t. every parameter; a batch tensor is a variable only if somebody asks.
    variables = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    inputs = [tensor.detach().requires_grad_(want) for tensor, want in zip(batch, wanted, strict=True)]
    with torch.enable_grad(), named_operator(), ExitStack() as stack:
        with surroundings.again():
            found = stack.enter_context(evaluated(loss_fn, variables, buffers, inputs, traits, surroundings))
            reject_silently_wrong(found.graph)
            grads = torch.autograd.grad(found.loss, list(variables.values()), create_graph=True, materialize_grads=True)
            grads = tuple(dense(grad) for grad in grads)
        found.inner.end()
        # Their gradient belongs to the outer backward pass and runs, as in mode reverse, in that pass's autocast state.
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
