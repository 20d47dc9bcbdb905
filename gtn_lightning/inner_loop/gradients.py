"""The inner gradient as a differentiable function, in any mode; and the gradient of the meta-loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from gtn_lightning.inner_loop.modes import MODES, Mode
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn


def inner_gradient(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: Batch,
    mode: str = "auto",
    checked: bool = True,
) -> InnerGradient:
    """Compute the gradient of an inner loss as a differentiable function of the parameters and the batch.

    Under ``torch.no_grad`` the same values come without any graph, whatever the mode.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (loss, buffers)``. It must not close over
            tensors that require grad: pass those that receive a meta-gradient in ``params`` or ``batch``.
        params: the learner's parameters.
        buffers: the learner's buffers; they are constants of the meta-gradient.
        batch: the tensors of the batch, of any shape and dtype.
        mode: a key of ``MODES``.
        checked: whether to raise if a loss is found to be differentiated wrongly, or to change when the backward pass
            evaluates it again.

    Returns:
        The gradients, the loss, and the buffers after the forward pass.

    Raises:
        ValueError: if the mode is unknown, there is no parameter, or the loss closes over a tensor that
            requires grad.
        InnerLoopError: if the loss cannot be differentiated correctly; the message says why. Most are raised here, some
            in the backward pass, which recomputes the loss in all modes but ``reverse``.
        NotTwiceDifferentiableError: if an operator of the loss has no second derivative; in all modes but
            ``reverse`` in the backward pass.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import Functional, inner_gradient
        >>> network = Functional(torch.nn.Linear(3, 2))
        >>> def loss(params, buffers, inputs, targets):
        ...     outputs, buffers = network(params, buffers, inputs)
        ...     return F.cross_entropy(outputs, targets), buffers
        >>> params, buffers = network.init()
        >>> inputs = torch.randn(8, 3, requires_grad=True)
        >>> gradient = inner_gradient(loss, params, buffers, (inputs, torch.arange(8) % 2), mode="remat")
        >>> gradient.grads["weight"].square().sum().backward()  # the gradient of a function of the gradient
        >>> inputs.grad.shape
        torch.Size([8, 3])
    """
    chosen = mode_named(mode)
    reject_no_parameters(params)
    if not torch.is_grad_enabled():
        return chosen.plain(loss_fn, params, buffers, batch)
    return chosen.differentiable(loss_fn, params, buffers, batch, checked)


def reject_no_parameters(params: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` if a learner has no parameters."""
    if not params:
        raise ValueError("the learner has no parameters: it needs at least one that requires grad")


def mode_named(mode: str) -> Mode:
    """Return a mode; raise ``ValueError`` if there is none of this name."""
    if mode not in MODES:
        raise ValueError(f"inner-gradient mode {mode!r} is unknown: use one of {', '.join(sorted(MODES))}")
    return MODES[mode]


def eager_loss(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: Batch,
    mode: str = "remat",
) -> Tensor:
    """Compute a loss together with its gradient w.r.t. the parameters, so that no activation outlives the call.

    A meta-loss may be computed at many inner steps; ordinary graphs would keep the activations of all of them until
    the backward pass. This node keeps one gradient, of the size of the parameters, instead.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (loss, buffers)``.
        params: the parameters that receive the gradient.
        buffers: the learner's buffers, constants.
        batch: the tensors of the batch, constants.
        mode: how the gradient is computed, a key of ``MODES``; ``compiled``, ``linearized`` and ``auto`` compile it.

    Returns:
        The scalar loss, differentiable once w.r.t. the parameters.

    Raises:
        ValueError: if the mode is unknown.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import Functional, eager_loss
        >>> network = Functional(torch.nn.Linear(3, 2))
        >>> def loss(params, buffers, inputs, targets):
        ...     outputs, buffers = network(params, buffers, inputs)
        ...     return F.cross_entropy(outputs, targets), buffers
        >>> params, buffers = network.init()
        >>> weights = {name: parameter.requires_grad_() for name, parameter in params.items()}
        >>> value = eager_loss(loss, weights, buffers, (torch.randn(8, 3), torch.arange(8) % 2))
        >>> value.backward()
        >>> weights["weight"].grad.shape
        torch.Size([2, 3])
    """
    with record_function("meta-loss"):
        if not torch.is_grad_enabled():
            value, _ = loss_fn(params, buffers, *batch)
            return value
        loss: Tensor = _EagerLoss.apply(mode_named(mode), loss_fn, tuple(params), buffers, batch, *params.values())
    return loss


class _EagerLoss(torch.autograd.Function):
    """A loss that carries its gradient instead of its graph."""

    @staticmethod
    def forward(
        ctx: Any,
        mode: Mode,
        loss_fn: LossFn,
        names: tuple[str, ...],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        *params: Tensor,
    ) -> Tensor:
        found = mode.plain(loss_fn, dict(zip(names, params, strict=True)), buffers, batch)
        ctx.save_for_backward(*(found.grads[name] for name in names))
        return found.loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, None, None, *(cotangent * grad for grad in ctx.saved_tensors))
