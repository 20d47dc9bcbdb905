"""RMSprop, with epsilon inside the square root."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from gtn_lightning.inner_loop.optimizers.base import (
    POSITIVE,
    UNIT,
    InnerOptimizer,
    as_real,
    as_typed,
    check_eps,
    with_weight_decay,
)
from gtn_lightning.inner_loop.types import Params


class RMSpropState(NamedTuple):
    """State of ``RMSprop``."""

    square: Params
    """Running mean of the squared gradient."""
    momentum: Params
    """Momentum buffers; empty without momentum."""


class RMSprop(InnerOptimizer):
    """RMSprop (Hinton, 2012) with its epsilon inside the square root, for the same reason as in `Adam`.

    With the gradient ``g``, a step is ``v = alpha * v + (1 - alpha) * g ** 2``,
    ``b = momentum * b + g / sqrt(v + eps ** 2)``, ``p = p - lr * b``.

    Args:
        lr: learning rate, above 0.
        alpha: averaging coefficient of the squared gradient, from 0 to below 1.
        eps: added, squared, under the square root, at least 1e-12.
        momentum: momentum, from 0 to below 1.
        weight_decay: coefficient of the L2 penalty, at least 0.
        learned: hyperparameters learned as one value for all inner steps.
        learned_per_step: hyperparameters learned as one value per inner step.
        steps: number of inner steps, for ``learned_per_step``.

    Raises:
        ValueError: if a value lies outside its range or a name is unknown.

    Examples:
        >>> from gtn_lightning.inner_loop import RMSprop
        >>> RMSprop(lr=0.01, momentum=0.9).momentum
        0.9
    """

    elementwise = True
    compilable = True

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        learned: Sequence[str] = (),
        learned_per_step: Sequence[str] = (),
        steps: int | None = None,
    ) -> None:
        check_eps("RMSprop", eps)
        super().__init__(
            {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay},
            {"lr": POSITIVE, "alpha": UNIT, "eps": POSITIVE, "momentum": UNIT, "weight_decay": POSITIVE},
            learned,
            learned_per_step,
            steps,
        )

    def init(self, params: Params) -> RMSpropState:
        """Return zero moments."""
        zeros = {name: torch.zeros_like(parameter) for name, parameter in as_real(params).items()}
        return RMSpropState(zeros, zeros if self.momentum else {})

    def update(self, grads: Params, state: RMSpropState, params: Params, step: int) -> tuple[Params, RMSpropState]:
        """Take one step of RMSprop."""
        hyper = self.hyperparameters(step)
        given, grads, params = params, as_real(grads), as_real(params)
        lr, alpha, eps, momentum = hyper["lr"], hyper["alpha"], hyper["eps"], hyper["momentum"]
        grads = with_weight_decay(grads, params, hyper["weight_decay"])
        square = {name: alpha * state.square[name] + (1 - alpha) * grad * grad for name, grad in grads.items()}
        direction = {name: grad * (square[name] + eps * eps).rsqrt() for name, grad in grads.items()}
        if state.momentum:
            direction = {name: momentum * state.momentum[name] + step_ for name, step_ in direction.items()}
        new_params = {name: params[name] - lr * direction[name] for name in params}
        return as_typed(given, new_params), RMSpropState(square, direction if state.momentum else {})
