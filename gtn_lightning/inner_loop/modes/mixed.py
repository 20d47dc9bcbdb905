"""Mode ``mixed``: forward over reverse (MixFlow-MG, Kemaev et al., arXiv 2505.00793).

The Hessian is symmetric, so that ``v^T H`` is the derivative of the gradient along ``v``: one forward-mode pass through
the gradient's computation yields it, and with the gradient w.r.t. the batch beside it the mixed products too. No graph
of the second derivative is ever built, and both halves are functions that can be compiled.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.errors import RecomputationError
from gtn_lightning.inner_loop.modes.node import Call, Recomputing, Saved
from gtn_lightning.inner_loop.modes.remat import Remat
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Cotangents, Products, Recomputed
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.types import Batch, LossFn, Params


class Mixed(Recomputing):
    """Forward over reverse; where torch cannot do that for a learner, mode ``remat``.

    That is a learner with an operator without a forward-mode rule, most convolutional ones under autocast (torch
    2.13 then casts their values and not their tangents), and one that stops or changes gradients on the way to its
    loss: the derivative of its gradient is not symmetric.
    """

    def __init__(self) -> None:
        self._fallback = Remat()
        self._unsupported: set[Signature] = set()
        self._said: set[str] = set()

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Push the cotangents forward through the gradient; see the base class."""
        loss_fn, buffers = call.loss_fn, call.buffers
        params, batch = saved.params, saved.batch
        key = signature(loss_fn, params, buffers, batch, call.surroundings.autocast)
        # Where the loss alone was used, the product is an ordinary gradient.
        if not cotangents.vector or call.traits.reverse_only or key in self._unsupported:
            return self._fallback.products(call, saved, cotangents, wanted)
        try:
            with call.surroundings.again():
                Surroundings.note(call.traits.generators.values())
                found, again = forward_over_reverse(
                    loss_fn, params, buffers, batch, tangents(params, cotangents), cotangents.loss, wanted
                )
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            # If the fault is the learner's own, this raises as well.
            return self._fallen_back(key, _reason(error), call, saved, cotangents, wanted)
        try:
            call.check_recomputation(again.loss, again.grads)
        except RecomputationError:
            reason = "torch computes another loss of the learner in forward mode, as with dropout inside attention"
            return self._fallen_back(key, reason, call, saved, cotangents, wanted)
        return found

    def _fallen_back(
        self, key: Signature, reason: str, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]
    ) -> Products:
        found = self._fallback.products(call, saved, cotangents, wanted)
        self._unsupported.add(key)
        if reason not in self._said:
            self._said.add(reason)
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
        wanted: for each tensor of the batch, whether its product is asked for.

    Returns:
        The products, and the gradient and loss that were computed on the way.
    """

    def both(params: Params, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        given = iter(inputs)
        # Copies, which the loss may write to.
        whole = ((next(given) if want else tensor).clone() for tensor, want in zip(batch, wanted, strict=True))
        loss = loss_fn(params, buffers, *whole)[0]
        return loss, loss

    # Forward mode refuses a tensor whose elements share memory, as those of an expanded one do.
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
    patterns = (
        r"forward AD with (?:aten::)?_?(\w+) that does not support it",
        r"jvp.*?(?:autograd\.Function|custom function) (\w+)",
        r"[Tt]rying to use forward AD with (\w+)",
    )
    for pattern in patterns:
        if found := re.search(pattern, str(error)):
            return f"the learner's {found.group(1)} has no forward-mode derivative"
    if "jvp" in str(error) or "forward AD" in str(error) or "setup_context" in str(error):
        return "the learner's custom autograd function has no forward-mode derivative"
    return f"torch cannot differentiate the learner's gradient in forward mode ({first_line(error)})"
