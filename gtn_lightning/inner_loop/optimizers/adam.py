"""Adam and AdamW, with epsilon inside the square root."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from gtn_lightning.inner_loop.optimizers.base import (
    POSITIVE,
    UNIT,
    InnerOptimizer,
    Value,
    as_real,
    as_typed,
    check_eps,
    with_weight_decay,
)
from gtn_lightning.inner_loop.types import Params


class AdamState(NamedTuple):
    """State of ``Adam`` and ``AdamW``."""

    mean: Params
    """Running mean of the gradient."""
    square: Params
    """Running mean of the squared gradient."""
    decay1: Value
    """Product of all ``beta1`` so far, for the bias correction."""
    decay2: Value
    """Product of all ``beta2`` so far."""


class Adam(InnerOptimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980) with its epsilon inside the square root.

    With the corrected running means ``m`` of the gradient and ``v`` of its square, a step is
    ``p = p - lr * m / sqrt(v + eps ** 2)``.

    With epsilon outside, as in ``torch.optim.Adam``, the derivative of the square root at a zero gradient is
    infinite, and one dead unit of the learner makes the meta-gradient NaN. Values differ from ``torch.optim.Adam``
    only if ``v`` is about as small as ``eps ** 2``.

    Args:
        lr: learning rate, above 0.
        beta1: averaging coefficient of the gradient, from 0 to below 1.
        beta2: averaging coefficient of the squared gradient, from 0 to below 1.
        eps: added, squared, under the square root, at least 1e-12. It bounds the derivative of a step at a
            gradient near zero, and so the meta-gradient.
        weight_decay: coefficient of the L2 penalty, at least 0.
        learned: hyperparameters learned as one value for all inner steps.
        learned_per_step: hyperparameters learned as one value per inner step.
        steps: number of inner steps, for ``learned_per_step``.

    Raises:
        ValueError: if a value lies outside its range or a name is unknown.

    Examples:
        >>> from gtn_lightning.inner_loop import Adam
        >>> optimizer = Adam(lr=0.01, learned=["lr", "beta1"])
        >>> sorted(name for name, _ in optimizer.named_parameters())
        ['logs.beta1', 'logs.lr']
    """

    elementwise = True
    compilable = True
    decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        learned: Sequence[str] = (),
        learned_per_step: Sequence[str] = (),
        steps: int | None = None,
    ) -> None:
        check_eps(type(self).__name__, eps)
        super().__init__(
            {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
            {"lr": POSITIVE, "beta1": UNIT, "beta2": UNIT, "eps": POSITIVE, "weight_decay": POSITIVE},
            learned,
            learned_per_step,
            steps,
        )

    def init(self, params: Params) -> AdamState:
        """Return zero moments."""
        zeros = {name: torch.zeros_like(parameter) for name, parameter in as_real(params).items()}
        return AdamState(zeros, zeros, 1.0, 1.0)

    def update(self, grads: Params, state: AdamState, params: Params, step: int) -> tuple[Params, AdamState]:
        """Take one step of Adam."""
        hyper = self.hyperparameters(step)
        given, grads, params = params, as_real(grads), as_real(params)
        lr, beta1, beta2, eps = hyper["lr"], hyper["beta1"], hyper["beta2"], hyper["eps"]
        if self.decoupled:
            shrink = 1 - lr * hyper["weight_decay"]
            params = {name: parameter * shrink for name, parameter in params.items()}
        else:
            grads = with_weight_decay(grads, params, hyper["weight_decay"])
        mean = {name: beta1 * state.mean[name] + (1 - beta1) * grad for name, grad in grads.items()}
        square = {name: beta2 * state.square[name] + (1 - beta2) * grad * grad for name, grad in grads.items()}
        # Products rather than powers, because the coefficients may be learned per step.
        decay1, decay2 = state.decay1 * beta1, state.decay2 * beta2
        rate = lr / (1 - decay1)
        new_params = {
            name: params[name] - rate * mean[name] * (square[name] / (1 - decay2) + eps * eps).rsqrt()
            for name in params
        }
        return as_typed(given, new_params), AdamState(mean, square, decay1, decay2)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    Parameters are multiplied by ``1 - lr * weight_decay`` in each step; otherwise as `Adam`.

    Examples:
        >>> from gtn_lightning.inner_loop import AdamW
        >>> AdamW(lr=0.01, weight_decay=0.1).weight_decay
        0.1
    """

    compilable = True
    decoupled = True
