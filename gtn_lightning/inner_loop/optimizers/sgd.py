"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from gtn_lightning.inner_loop.optimizers.base import POSITIVE, UNIT, InnerOptimizer, with_weight_decay
from gtn_lightning.inner_loop.types import Params


class SGDState(NamedTuple):
    """State of ``SGD``."""

    momentum: Params
    """Momentum buffers; empty without momentum."""


class SGD(InnerOptimizer):
    """Stochastic gradient descent with momentum.

    With the gradient ``g``, the momentum ``b`` and the parameters ``p``, a step is ``d = g + weight_decay * p``,
    ``b = momentum * b + d``, ``p = p - lr * b``, and with Nesterov's momentum ``p = p - lr * (d + momentum * b)``, as
    in ``torch.optim.SGD``. The paper learns rate and momentum per inner step, from 0.02 and 0.5.

    Args:
        lr: learning rate, above 0.
        momentum: momentum, from 0 to below 1.
        nesterov: whether to use Nesterov's momentum.
        weight_decay: coefficient of the L2 penalty, at least 0.
        learned: hyperparameters learned as one value for all inner steps.
        learned_per_step: hyperparameters learned as one value per inner step.
        steps: number of inner steps, for ``learned_per_step``.

    Raises:
        ValueError: if a value lies outside its range or a name is unknown.

    Examples:
        >>> from gtn_lightning.inner_loop import SGD
        >>> optimizer = SGD(lr=0.1, momentum=0.5, learned_per_step=["lr"], steps=3)
        >>> [name for name, _ in optimizer.named_parameters()]
        ['logs.lr']
        >>> [round(rate.item(), 3) for rate in optimizer.schedules(3)["lr"]]
        [0.1, 0.1, 0.1]
    """

    elementwise = True
    compilable = True

    def __init__(
        self,
        lr: float = 0.02,
        momentum: float = 0.5,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        learned: Sequence[str] = (),
        learned_per_step: Sequence[str] = (),
        steps: int | None = None,
    ) -> None:
        super().__init__(
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay},
            {"lr": POSITIVE, "momentum": UNIT, "weight_decay": POSITIVE},
            learned,
            learned_per_step,
            steps,
        )
        self.nesterov = nesterov

    def init(self, params: Params) -> SGDState:
        """Return zero momentum buffers, or none if momentum is the constant zero."""
        if self.momentum == 0:
            return SGDState({})
        return SGDState({name: torch.zeros_like(parameter) for name, parameter in params.items()})

    def update(self, grads: Params, state: SGDState, params: Params, step: int) -> tuple[Params, SGDState]:
        """Take one step of gradient descent."""
        hyper = self.hyperparameters(step)
        lr, momentum = hyper["lr"], hyper["momentum"]
        grads = with_weight_decay(grads, params, hyper["weight_decay"])
        if not state.momentum:
            return {name: params[name] - lr * grad for name, grad in grads.items()}, state
        buffers = {name: momentum * state.momentum[name] + grad for name, grad in grads.items()}
        if self.nesterov:
            direction = {name: grad + momentum * buffers[name] for name, grad in grads.items()}
        else:
            direction = buffers
        return {name: params[name] - lr * direction[name] for name in params}, SGDState(buffers)
