"""Mode ``mixed``: forward over reverse (MixFlow-MG, Kemaev et al., arXiv 2505.00793).

The Hessian is symmetric, so ``v^T H`` is the derivative of the gradient along ``v``. One forward-mode pass through the
gradient's computation yields it, together with the mixed products if the gradient is also taken w.r.t. the batch. No
graph of the second derivative is built, and both halves are functions that can be compiled.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.capture import is_recorded, note_unsettled
from gtn_lightning.inner_loop.errors import RecomputationError
from gtn_lightning.inner_loop.modes.node import Call, Recomputing, Saved
from gtn_lightning.inner_loop.modes.remat import Remat
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Recomputed
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.torch_internals import missing_forward_derivative
from gtn_lightning.inner_loop.types import Batch, Cotangents, LossFn, Params, Products


class Mixed(Recomputing):
    """Forward over reverse; learners for which torch cannot do that run in mode ``remat``.

    These are learners

    * with an operator without a forward-mode rule,
    * under autocast, most of those with convolutions: torch 2.13 casts their values but not their tangents,
    * that stop or change gradients between the parameters and the loss: the derivative of their gradient is not
      symmetric.
    """

    def __init__(self) -> None:
        self._fallback = Remat()
        self._unsupported: set[Signature] = set()
        self._warned: set[str] = set()

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Push the cotangents forward through the gradient; see the base class."""
        loss_fn, buffers = call.loss_fn, call.buffers
        params, batch = saved.params, saved.batch
        key = signature(loss_fn, params, buffers, batch, call.context.autocast)
        # If only the loss was used, the product is an ordinary gradient.
        if not cotangents.has_vector or call.traits.reverse_only or key in self._unsupported:
            return self._fallback.products(call, saved, cotangents, wanted)
        try:
            with call.context.restored():
                ReplayContext.record(call.traits.generators.values())
                found, recomputed = forward_over_reverse(
                    loss_fn, params, buffers, batch, tangents(params, cotangents), cotangents.loss, wanted
                )
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            if is_recorded():  # an error of the capture, not of the learner
                raise
            # If the error is the learner's own, this raises as well.
            return self._fall_back(key, _reason(error), call, saved, cotangents, wanted)
        try:
            call.check_recomputation(recomputed.loss, recomputed.grads)
        except RecomputationError:
            reason = "torch computes a different loss for the learner in forward mode, as with dropout inside attention"
            return self._fall_back(key, reason, call, saved, cotangents, wanted)
        return found

    def _fall_back(
        self, key: Signature, reason: str, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]
    ) -> Products:
        note_unsettled()
        found = self._fallback.products(call, saved, cotangents, wanted)
        self._unsupported.add(key)
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(
                f"{reason}: its inner gradient is differentiated in mode 'remat' instead of 'mixed'", stacklevel=3
            )
        return found


def tangents(params: Params, cotangents: Cotangents) -> Params:
    """Return the cotangents of the gradient as the direction in parameter space along which to differentiate."""
    given = cotangents.grads
    return {
        name: torch.zeros_like(tensor) if (value := given[name]) is None else value.to(tensor.dtype)
        for name, tensor in params.items()
    }


def forward_over_reverse(
    loss_fn: LossFn,
    params: Params,
    buffers: Mapping[str, Tensor],
    batch: Batch,
    vector: Params,
    loss_cotangent: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Products, Recomputed]:
    """Return the products of the inner gradient's derivatives with a vector; a pure function of tensors.

    Args:
        loss_fn, params, buffers, batch: as for the inner gradient.
        vector: cotangents of the gradient, shaped as the parameters.
        loss_cotangent: cotangent of the loss, or None for zero.
        wanted: for each tensor of the batch, whether its product is needed.

    Returns:
        The products, and the gradient and loss that were computed for them.
    """

    def both(params: Params, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        given = iter(inputs)
        # Copies: the loss may write to them.
        whole = ((next(given) if want else tensor).clone() for tensor, want in zip(batch, wanted, strict=True))
        loss = loss_fn(params, buffers, *whole)[0]
        return loss, loss

    # Forward mode rejects tensors whose elements share memory, such as expanded ones.
    params = {name: tensor.contiguous() if 0 in tensor.stride() else tensor for name, tensor in params.items()}
    inputs = tuple(tensor for tensor, want in zip(batch, wanted, strict=True) if want)
    gradient = grad(both, argnums=(0, 1), has_aux=True)
    found: Any = jvp(lambda params: gradient(params, inputs), (params,), (vector,), has_aux=True)
    (by_params, by_inputs), (h_params, h_inputs), loss = found
    if loss_cotangent is not None:
        h_params = {name: h_params[name] + loss_cotangent * by_params[name] for name in h_params}
        h_inputs = tuple(h + loss_cotangent * by for h, by in zip(h_inputs, by_inputs, strict=True))
    rest = iter(h_inputs)
    products = Products(dict(h_params), [next(rest) if want else None for want in wanted])
    return products, Recomputed(loss, by_params)


def _reason(error: Exception) -> str:
    """Return what torch complains of, as the beginning of a sentence."""
    operator = missing_forward_derivative(error)
    if operator is None:
        return f"torch cannot differentiate the learner's gradient in forward mode ({first_line(error)})"
    return f"the learner's {operator or 'custom autograd function'} has no forward-mode derivative"
