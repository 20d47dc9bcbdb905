"""The base class of all modes: a way to compute an inner gradient that can be differentiated again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.inner_loop.autograd_graph import naming_operator
from gtn_lightning.inner_loop.loss import evaluated
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.replay import AutocastState, ReplayContext
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, Buffers, InnerGradient, LossFn, Params, detached, is_continuous


class Together(ABC):
    """Takes several inner steps of one learner at once."""

    on_backward: Callable[[float], None] | None = None
    """Called with the seconds of every backward pass through steps that are taken from now on."""

    @abstractmethod
    def take(
        self, params: Params, buffers: Buffers, state: Any, batches: Sequence[Batch], first: int
    ) -> tuple[Params, Buffers, Any, Tensor] | None:
        """Take one step for every batch, or return None if they must be taken one by one.

        Args:
            params: the parameters.
            buffers: the buffers.
            state: the optimizer's state.
            batches: the batches.
            first: which inner step the first one is, counted from zero.

        Returns:
            Parameters, buffers and state afterwards, and the loss before each step, ``[steps]``.
        """


class Mode(ABC):
    """A way to compute an inner gradient. For finite values, the results of modes differ by rounding alone."""

    @abstractmethod
    def differentiable(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        checked: bool = True,
    ) -> InnerGradient:
        """Compute the gradient as a differentiable function of parameters and batch.

        Args:
            loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
            params: the learner's parameters.
            buffers: the learner's buffers, constants of the meta-gradient.
            batch: the tensors of the batch.
            checked: whether to refuse losses that cannot be differentiated correctly.

        Raises:
            InnerLoopError: if the loss is refused, here or in the backward pass.
        """

    def together(
        self, loss_fn: LossFn, optimizer: InnerOptimizer, device: torch.device, checked: bool = True
    ) -> "Together | None":
        """Return how to take several inner steps at once, or None if this mode takes them one by one.

        Args:
            loss_fn: as for ``differentiable``.
            optimizer: the inner optimizer.
            device: the learner's device.
            checked: as for ``differentiable``.
        """
        return None

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the same gradient without a graph; arguments as for ``differentiable``."""
        return first_order(loss_fn, params, buffers, batch)


def first_order(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: Batch,
    context: ReplayContext | None = None,
) -> InnerGradient:
    """Compute loss and gradient by ordinary autograd, and free the graph.

    Args:
        loss_fn, params, buffers, batch: as for the inner gradient.
        context: the state at the beginning of the evaluation, if the gradient will be recomputed to be
            differentiated, so that the loss must be observed; None otherwise.

    Raises:
        ValueError: if the loss closes over a tensor that requires grad.
    """
    device = next(iter(params.values())).device
    traits, observed = traits_of(loss_fn), context is not None
    with AutocastState.current(device).context(), torch.enable_grad():
        variables = {name: parameter.detach().requires_grad_() for name, parameter in params.items()}
        # If the loss is observed, the batch is a variable too, so that stops between it and the loss are seen.
        inputs = [tensor.detach().requires_grad_(observed and traits.due and is_continuous(tensor)) for tensor in batch]
        with evaluated(loss_fn, variables, buffers, inputs, traits, context) as found, naming_operator():
            grads = torch.autograd.grad(found.loss, list(variables.values()), materialize_grads=True)
    named = {name: dense(grad) for name, grad in zip(variables, grads, strict=True)}
    return InnerGradient(named, found.loss.detach(), detached(found.buffers))


def dense(gradient: Tensor) -> Tensor:
    """Return a gradient as an ordinary tensor; ``nn.Embedding(sparse=True)`` has sparse ones."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()
