"""What every mode is: a way to compute an inner gradient that can be differentiated again."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from gtn_lightning.inner_loop.operators import reject_captured
from gtn_lightning.inner_loop.replay import AutocastState
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn, detached


class Mode(ABC):
    """A way to compute an inner gradient. Modes differ in time and memory, never in the result."""

    @abstractmethod
    def differentiable(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient as a differentiable function of parameters and batch.

        Args:
            loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
            params: the learner's parameters.
            buffers: the learner's buffers, constants of the meta-gradient.
            batch: the tensors of the batch.
        """

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the same gradient without a graph; arguments as for ``differentiable``."""
        return first_order(loss_fn, params, buffers, batch)


def first_order(
    loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
) -> InnerGradient:
    """Compute loss and gradient by ordinary autograd and let go of the graph.

    Raises:
        ValueError: if the loss closes over a tensor that requires grad.
    """
    device = next(iter(params.values())).device
    with AutocastState.now(device).context(), torch.enable_grad():
        variables = {name: parameter.detach().requires_grad_() for name, parameter in params.items()}
        loss, new_buffers = loss_fn(variables, buffers, *(tensor.detach() for tensor in batch))
        reject_captured(loss, variables.values())
        grads = torch.autograd.grad(loss, list(variables.values()), materialize_grads=True)
    return InnerGradient(dict(zip(variables, grads, strict=True)), loss.detach(), detached(new_buffers))
