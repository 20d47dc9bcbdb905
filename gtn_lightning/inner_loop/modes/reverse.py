"""Mode ``reverse``: ordinary double backward.

The gradient is computed with its graph, which holds all activations until the meta-gradient is there. The
oracle of the tests, and the fastest where the inner loop is tiny.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gtn_lightning.inner_loop.modes.base import Mode
from gtn_lightning.inner_loop.operators import named_operator, reject_silently_wrong
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn, detached


class Reverse(Mode):
    """Keep the graph of the gradient."""

    def differentiable(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient with its graph; see the base class."""
        variables = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        loss, new_buffers = loss_fn(variables, buffers, *batch)
        reject_silently_wrong(loss, [*variables.values(), *batch])
        with named_operator():
            grads = torch.autograd.grad(loss, list(variables.values()), create_graph=True, materialize_grads=True)
        return InnerGradient(dict(zip(params, grads, strict=True)), loss, detached(new_buffers))
