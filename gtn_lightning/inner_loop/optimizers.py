"""Differentiable inner optimizers: pure ``(init, update)`` pairs with learnable hyperparameters.

An optimizer's arithmetic is ordinary autograd, so any of them works with any mode of the inner gradient and
no adjoint is written by hand. ``torch.optim`` cannot serve: it writes in place, and
``torch.optim.SGD(differentiable=True)`` detaches its first momentum buffer.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from gtn_lightning.inner_loop.types import Params

POSITIVE = "positive"
"""Hyperparameters above zero, learned through their logarithm, between 1e-12 and 1e12."""

UNIT = "unit"
"""Hyperparameters from zero to below one, learned through their logit, between 3e-7 and 1 - 3e-7."""

_LIMITS = {POSITIVE: math.log(1e12), UNIT: 15.0}
"""How far from zero the logarithm or the logit of a learned hyperparameter counts.

In float32 the sigmoid is exactly one from 17 on and the exponential infinite from 89 on; Adam divides by one
minus a coefficient, and its meta-gradient by the third power of epsilon.
"""

Value = float | Tensor
"""A hyperparameter at one inner step: a number, or a scalar tensor that receives a meta-gradient."""


class InnerOptimizer(nn.Module, ABC):
    """A differentiable optimizer for the inner loop.

    As a module it registers what is learned about it, so that the outer optimizer, DDP and checkpoints see
    it. A learned hyperparameter stays inside its range whatever the outer optimizer does: rates and decays
    are exponentials, momenta and averaging coefficients sigmoids, of a logarithm (or logit) that is the sum of
    two tensors. ``origins`` holds, as buffers, where it began; ``logs``, the registered parameters, by how much it
    has been shifted since, zero at first. So a weight decay of the outer optimizer draws a hyperparameter to where
    it began. Drawn to zero, a logarithm would make every rate one.

    Args:
        values: initial (or constant) value of each hyperparameter.
        ranges: ``POSITIVE`` or ``UNIT`` for each hyperparameter.
        learned: names of the hyperparameters learned as one value for all inner steps.
        learned_per_step: names of those learned as one value per inner step.
        steps: number of inner steps; needed by ``learned_per_step`` alone. Later steps use the last value.

    Raises:
        ValueError: if a name is unknown or a value lies outside its range, which for a learned one ends at
            1e-12 and 1e12 (``POSITIVE``) or at 3e-7 and 1 - 3e-7 (``UNIT``).
    """

    elementwise = False
    """Whether the update of a number depends on nothing but that number's own history, whatever tensor it is in."""

    def __init__(
        self,
        values: Mapping[str, float],
        ranges: Mapping[str, str],
        learned: Sequence[str],
        learned_per_step: Sequence[str],
        steps: int | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.learned = list(learned)
        self.learned_per_step = list(learned_per_step)
        self.steps = steps
        self._ranges = dict(ranges)
        self._values = {key: float(value) for key, value in values.items()}
        for key in (*learned, *learned_per_step):
            if key not in ranges:
                raise ValueError(f"{name} has no hyperparameter {key!r} to learn: choose from {', '.join(ranges)}")
        both = set(learned) & set(learned_per_step)
        if both:
            raise ValueError(f"{name}: {both.pop()!r} is in both learned and learned_per_step: name it in one of them")
        if learned_per_step and (steps is None or steps < 1):
            raise ValueError(
                f"{name}: learned_per_step needs steps, the number of inner steps, at least 1; got {steps}"
            )
        self.logs = nn.ParameterDict()
        self.origins = nn.Module()
        for key, value in self._values.items():
            is_learned = key in self.learned or key in self.learned_per_step
            low_ok = value > 0 if is_learned else value >= 0
            if not (low_ok and value < (1 if ranges[key] == UNIT else math.inf)):
                bounds = ("above 0" if is_learned else "at least 0") + (" and below 1" if ranges[key] == UNIT else "")
                raise ValueError(f"{name}: {key} must be {bounds}{' to be learned' if is_learned else ''}; got {value}")
            if is_learned:
                raw = math.log(value) if ranges[key] == POSITIVE else math.log(value / (1 - value))
                if abs(raw) > _LIMITS[ranges[key]]:
                    raise ValueError(f"{name}: {key} is too close to the end of its range to be learned; got {value}")
                shape = (steps,) if key in self.learned_per_step and steps else ()
                self.logs[key] = nn.Parameter(torch.zeros(shape))
                self.origins.register_buffer(key, torch.full(shape, raw))

    def hyperparameters(self, step: int) -> dict[str, Value]:
        """Return every hyperparameter's value at an inner step (counted from zero)."""
        return {key: self._value(key, step) for key in self._values}

    def schedules(self, steps: int) -> dict[str, Tensor]:
        """Return every hyperparameter's values in the first ``steps`` inner steps, detached, ``[steps]``."""
        with torch.no_grad():
            rows = [self.hyperparameters(step) for step in range(steps)]
            return {key: torch.tensor([float(row[key]) for row in rows]) for key in self._values}

    def constant(self, **values: float) -> Self:
        """Return the same optimizer with nothing learned: its initial values, save those given here."""
        signature = inspect.signature(type(self).__init__).parameters
        arguments = {name: getattr(self, name) for name in signature if name != "self"}
        return type(self)(**{**arguments, "learned": (), "learned_per_step": (), "steps": None, **values})

    def _value(self, key: str, step: int) -> Value:
        if key not in self.logs:
            return self._values[key]
        raw: Tensor = getattr(self.origins, key) + self.logs[key]
        if raw.ndim:
            raw = raw[min(step, raw.shape[0] - 1)]
        limit = _LIMITS[self._ranges[key]]
        raw = raw.clamp(-limit, limit)
        return raw.exp() if self._ranges[key] == POSITIVE else raw.sigmoid()

    @abstractmethod
    def init(self, params: Params) -> Any:
        """Return the optimizer's state before the first inner step."""

    @abstractmethod
    def update(self, grads: Params, state: Any, params: Params, step: int) -> tuple[Params, Any]:
        """Take one inner step.

        Args:
            grads: gradient of the inner loss, shaped as the parameters.
            state: what ``init`` or the previous ``update`` returned.
            params: the parameters.
            step: which inner step this is, counted from zero.

        Returns:
            The new parameters and the new state; nothing is written in place.
        """


class SGDState(NamedTuple):
    """State of ``SGD``."""

    momentum: Params
    """Momentum buffers; empty without momentum."""


class SGD(InnerOptimizer):
    r"""Stochastic gradient descent with momentum.

    .. math:: b_t = \mu_t b_{t-1} + g_t + \lambda p_{t-1}, \qquad p_t = p_{t-1} - \eta_t b_t

    and with Nesterov's momentum :math:`g_t + \lambda p_{t-1} + \mu_t b_t` in place of :math:`b_t` in the
    second equation, as in ``torch.optim.SGD``. The paper learns rate and momentum per inner step, from 0.02
    and 0.5.

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
    """

    elementwise = True

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
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay

    def init(self, params: Params) -> SGDState:
        """Return zero momentum buffers, or none where momentum is the constant zero."""
        if self.momentum == 0:
            return SGDState({})
        return SGDState({name: torch.zeros_like(parameter) for name, parameter in params.items()})

    def update(self, grads: Params, state: SGDState, params: Params, step: int) -> tuple[Params, SGDState]:
        """Take one step of gradient descent."""
        hyper = self.hyperparameters(step)
        lr, momentum = hyper["lr"], hyper["momentum"]
        grads = _decayed(grads, params, hyper["weight_decay"])
        if not state.momentum:
            return {name: params[name] - lr * grad for name, grad in grads.items()}, state
        buffers = {name: momentum * state.momentum[name] + grad for name, grad in grads.items()}
        if self.nesterov:
            direction = {name: grad + momentum * buffers[name] for name, grad in grads.items()}
        else:
            direction = buffers
        return {name: params[name] - lr * direction[name] for name in params}, SGDState(buffers)


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
    r"""Adam (Kingma and Ba, arXiv 1412.6980) with its epsilon inside the square root.

    .. math:: p_t = p_{t-1} - \eta_t \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon^2}}

    With epsilon outside, as in ``torch.optim.Adam``, the derivative of the square root at a zero gradient is
    infinite and every meta-gradient turns NaN as soon as one unit of the learner is dead. The values differ
    from ``torch.optim.Adam`` only where :math:`\hat v` is of the size of :math:`\epsilon^2`.

    Args:
        lr: learning rate, above 0.
        beta1: averaging coefficient of the gradient, from 0 to below 1.
        beta2: averaging coefficient of the squared gradient, from 0 to below 1.
        eps: added, squared, under the square root, at least 1e-12. It bounds how steeply a step reacts to a
            gradient near zero, and so the meta-gradient.
        weight_decay: coefficient of the L2 penalty, at least 0.
        learned: hyperparameters learned as one value for all inner steps.
        learned_per_step: hyperparameters learned as one value per inner step.
        steps: number of inner steps, for ``learned_per_step``.

    Raises:
        ValueError: if a value lies outside its range or a name is unknown.
    """

    elementwise = True
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
        _check_eps(type(self).__name__, eps)
        super().__init__(
            {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
            {"lr": POSITIVE, "beta1": UNIT, "beta2": UNIT, "eps": POSITIVE, "weight_decay": POSITIVE},
            learned,
            learned_per_step,
            steps,
        )
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weight_decay = weight_decay

    def init(self, params: Params) -> AdamState:
        """Return zero moments."""
        zeros = {name: torch.zeros_like(parameter) for name, parameter in _as_real(params).items()}
        return AdamState(zeros, zeros, 1.0, 1.0)

    def update(self, grads: Params, state: AdamState, params: Params, step: int) -> tuple[Params, AdamState]:
        """Take one step of Adam."""
        hyper = self.hyperparameters(step)
        given, grads, params = params, _as_real(grads), _as_real(params)
        lr, beta1, beta2, eps = hyper["lr"], hyper["beta1"], hyper["beta2"], hyper["eps"]
        if self.decoupled:
            shrink = 1 - lr * hyper["weight_decay"]
            params = {name: parameter * shrink for name, parameter in params.items()}
        else:
            grads = _decayed(grads, params, hyper["weight_decay"])
        mean = {name: beta1 * state.mean[name] + (1 - beta1) * grad for name, grad in grads.items()}
        square = {name: beta2 * state.square[name] + (1 - beta2) * grad * grad for name, grad in grads.items()}
        # Products rather than powers, because the coefficients may be learned per step.
        decay1, decay2 = state.decay1 * beta1, state.decay2 * beta2
        rate = lr / (1 - decay1)
        new_params = {
            name: params[name] - rate * mean[name] * (square[name] / (1 - decay2) + eps * eps).rsqrt()
            for name in params
        }
        return _typed_as(given, new_params), AdamState(mean, square, decay1, decay2)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    Parameters shrink by ``1 - lr * weight_decay`` in each step; all else is as in ``Adam``.
    """

    decoupled = True


class RMSpropState(NamedTuple):
    """State of ``RMSprop``."""

    square: Params
    """Running mean of the squared gradient."""
    momentum: Params
    """Momentum buffers; empty without momentum."""


class RMSprop(InnerOptimizer):
    r"""RMSprop (Hinton, 2012) with its epsilon inside the square root, for the reason given at ``Adam``.

    .. math:: v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad
        b_t = \mu b_{t-1} + g_t / \sqrt{v_t + \epsilon^2}, \qquad p_t = p_{t-1} - \eta_t b_t

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
    """

    elementwise = True

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
        _check_eps("RMSprop", eps)
        super().__init__(
            {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay},
            {"lr": POSITIVE, "alpha": UNIT, "eps": POSITIVE, "momentum": UNIT, "weight_decay": POSITIVE},
            learned,
            learned_per_step,
            steps,
        )
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.momentum = momentum
        self.weight_decay = weight_decay

    def init(self, params: Params) -> RMSpropState:
        """Return zero moments."""
        zeros = {name: torch.zeros_like(parameter) for name, parameter in _as_real(params).items()}
        return RMSpropState(zeros, zeros if self.momentum else {})

    def update(self, grads: Params, state: RMSpropState, params: Params, step: int) -> tuple[Params, RMSpropState]:
        """Take one step of RMSprop."""
        hyper = self.hyperparameters(step)
        given, grads, params = params, _as_real(grads), _as_real(params)
        lr, alpha, eps, momentum = hyper["lr"], hyper["alpha"], hyper["eps"], hyper["momentum"]
        grads = _decayed(grads, params, hyper["weight_decay"])
        square = {name: alpha * state.square[name] + (1 - alpha) * grad * grad for name, grad in grads.items()}
        direction = {name: grad * (square[name] + eps * eps).rsqrt() for name, grad in grads.items()}
        if state.momentum:
            direction = {name: momentum * state.momentum[name] + step_ for name, step_ in direction.items()}
        new_params = {name: params[name] - lr * direction[name] for name in params}
        return _typed_as(given, new_params), RMSpropState(square, direction if state.momentum else {})


def _check_eps(name: str, eps: float) -> None:
    # The third power of 1 / eps stands in the meta-gradient: below this it overflows float32.
    if not eps >= 1e-12:
        raise ValueError(
            f"{name}: eps must be at least 1e-12, or the meta-gradient is NaN at a zero gradient; got {eps}"
        )


def _decayed(grads: Params, params: Params, weight_decay: Value) -> Params:
    if isinstance(weight_decay, float) and weight_decay == 0:
        return grads
    return {name: grad + weight_decay * params[name] for name, grad in grads.items()}


def _as_real(tensors: Params) -> Params:
    """Return complex tensors as pairs of real numbers, of which an elementwise optimizer takes each by itself."""
    return {name: torch.view_as_real(tensor) if tensor.is_complex() else tensor for name, tensor in tensors.items()}


def _typed_as(given: Params, tensors: Params) -> Params:
    """Return pairs of real numbers as complex ones, where these tensors are complex."""
    return {name: torch.view_as_complex(t) if given[name].is_complex() else t for name, t in tensors.items()}
