"""Rejects losses whose inner gradient no mode can differentiate correctly."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from gtn_lightning.inner_loop.errors import InnerLoopError, NotTwiceDifferentiableError
from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.reverse_over_reverse import reverse_over_reverse
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.traits import Traits
from gtn_lightning.inner_loop.types import Batch, Buffers, Cotangents, LossFn, Params
from gtn_lightning.inner_loop.verification import ACCEPT, check_derivative


def reject_wrong_derivative(
    loss_fn: LossFn,
    params: Params,
    buffers: Mapping[str, Tensor],
    batch: Batch,
    wanted: Sequence[bool],
    traits: Traits,
    context: ReplayContext,
) -> None:
    """Raise if a loss's traits make the derivative of its inner gradient wrong.

    Args:
        loss_fn, params, buffers, batch: as for the inner gradient.
        wanted: for each tensor of the batch, whether a meta-gradient by it is wanted.
        traits: the loss's traits.
        context: the random and autocast state of the evaluation.

    Raises:
        InnerLoopError: if a buffer carries a value with a derivative from step to step.
        WrongDerivativeError: if the derivative is not that of central differences.
    """
    if traits.carried:
        names = ", ".join(sorted(traits.carried))
        raise InnerLoopError(
            f"the learner cannot be taught: its buffer {names} is computed from its parameters or inputs and enters "
            "the loss of the next step, but buffers carry no gradient from step to step; freeze the layer with eval(), "
            f"or make it a function of parameters and inputs alone; {ACCEPT}"
        )
    suspects = traits.unsettled(tuple(wanted))
    if not suspects:
        return

    def gradient(params: Params, batch: Batch) -> Params:
        with context.restored(), torch.no_grad():
            return first_order(loss_fn, params, _like(buffers, params), batch).grads

    def product(
        params: Params, batch: Batch, cotangents: Params
    ) -> tuple[dict[str, Tensor | None], list[Tensor | None]]:
        found, _ = reverse_over_reverse(
            loss_fn, params, _like(buffers, params), batch, Cotangents(cotangents), wanted, traits, context
        )
        return found.params, found.batch

    detached_params = {name: tensor.detach() for name, tensor in params.items()}
    # A missing second derivative is an error of the backward pass, which may never run.
    with suppress(NotTwiceDifferentiableError):
        check_derivative(gradient, product, detached_params, [tensor.detach() for tensor in batch], wanted, suspects)
    traits.settle(tuple(wanted))


def _like(buffers: Mapping[str, Tensor], params: Params) -> Buffers:
    """Return buffers in the precision of the parameters."""
    kind = next(iter(params.values())).real.dtype
    return {name: buffer.to(kind) if buffer.is_floating_point() else buffer for name, buffer in buffers.items()}
