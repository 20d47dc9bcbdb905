"""Layer-wise adaptive rates: steps relative to the size of each parameter tensor."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gtn_lightning.inner_loop.optimizers.base import (
    POSITIVE,
    UNIT,
    InnerOptimizer,
    Value,
    as_real,
    as_typed,
    check_eps,
)
from gtn_lightning.inner_loop.types import Params

VECTOR_SIZE = 0.1
"""The size of a number in a bias or in the affine parameters of a norm, whose own size may be zero."""

SMALLEST = 1e-3
"""The least size of a number in a weight tensor, so that a layer that begins at zero learns."""


class LARSState(NamedTuple):
    """State of ``LARS``."""

    momentum: Params
    """Momentum buffers; empty without momentum."""


class LARS(InnerOptimizer):
    r"""Layer-wise adaptive rates (You et al., arXiv 1708.03888): one rate for networks of all widths and depths.

    .. math:: b_t = \mu_t b_{t-1} + s(p_{t-1}) \frac{g_t}{\sqrt{\|g_t\|^2 + \epsilon^2}}, \qquad
        p_t = p_{t-1} - \eta_t b_t

    with the norm of each parameter tensor. A step changes a weight tensor by the fraction :math:`\eta_t` of its size
    :math:`s(p)^2 = \|p\|^2 + 10^{-6} n`, where :math:`n` is its number of values. Biases and the affine parameters of
    norms, of at most one dimension, have the size :math:`0.1 \sqrt{n}`; the paper gives them their own norm, with
    which a bias of zero does not learn. The useful rate of SGD and Adam depends on a layer's number of inputs, that of
    LARS hardly.

    The update of one number depends on its whole tensor, so a population's learners are trained one after the other.

    Args:
        lr: learning rate, the change of a weight tensor relative to its size, above 0.
        momentum: momentum, from 0 to below 1.
        eps: added, squared, to the squared norm of a gradient, at least 1e-12. Gradients well below it make small
            steps, such as those of a bias before a batch normalization, which are rounding errors.
        learned: hyperparameters learned as one value for all inner steps.
        learned_per_step: hyperparameters learned as one value per inner step.
        steps: number of inner steps, for ``learned_per_step``.

    Raises:
        ValueError: if a value lies outside its range or a name is unknown.
    """

    compilable = True

    def __init__(
        self,
        lr: float = 0.1,
        momentum: float = 0.5,
        eps: float = 1e-4,
        learned: Sequence[str] = (),
        learned_per_step: Sequence[str] = (),
        steps: int | None = None,
    ) -> None:
        check_eps("LARS", eps)
        super().__init__(
            {"lr": lr, "momentum": momentum, "eps": eps},
            {"lr": POSITIVE, "momentum": UNIT, "eps": POSITIVE},
            learned,
            learned_per_step,
            steps,
        )

    def init(self, params: Params) -> LARSState:
        """Return zero momentum buffers, or none if momentum is the constant zero."""
        if self.momentum == 0:
            return LARSState({})
        return LARSState({name: torch.zeros_like(parameter) for name, parameter in as_real(params).items()})

    def update(self, grads: Params, state: LARSState, params: Params, step: int) -> tuple[Params, LARSState]:
        """Take one step relative to the parameters' sizes."""
        hyper = self.hyperparameters(step)
        lr, momentum, eps = hyper["lr"], hyper["momentum"], hyper["eps"]
        # The dimensions are those of the parameter as it was given: as real numbers, a complex vector has two.
        given, grads, params = params, as_real(grads), as_real(params)
        direction = {
            name: _size(params[name], given[name].ndim) * _normalized(grad, eps) for name, grad in grads.items()
        }
        if state.momentum:
            direction = {name: momentum * state.momentum[name] + step_ for name, step_ in direction.items()}
        new_params = {name: params[name] - lr * direction[name] for name in params}
        return as_typed(given, new_params), LARSState(direction if state.momentum else {})


def _size(parameter: Tensor, dimensions: int) -> Tensor | float:
    if dimensions < 2:
        return VECTOR_SIZE * parameter.numel() ** 0.5
    return (parameter.square().sum() + SMALLEST**2 * parameter.numel()).sqrt()


def _normalized(grad: Tensor, eps: Value) -> Tensor:
    # Not ``grad.norm()``, whose derivative at zero is not a number.
    return grad * (grad.square().sum() + eps * eps).rsqrt()
