"""The base class of inner optimizers, and the arithmetic that they share."""

import copy
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from gtn_lightning.inner_loop.types import Params

POSITIVE = "positive"
"""Hyperparameters above zero, learned through their logarithm, between 1e-12 and 1e12."""

UNIT = "unit"
"""Hyperparameters from zero to below one, learned through their logit, between 3e-7 and 1 - 3e-7."""

_LIMITS = {POSITIVE: math.log(1e12), UNIT: 15.0}
"""Bounds of the absolute logarithm or logit of a learned hyperparameter.

In float32 the sigmoid is exactly one from 17 on and the exponential infinite from 89 on. Adam divides by one
minus a coefficient, its meta-gradient by the third power of epsilon.
"""

Value = float | Tensor
"""A hyperparameter at one inner step: a number, or a scalar tensor that receives a meta-gradient."""


class InnerOptimizer(nn.Module, ABC):
    """A differentiable optimizer for the inner loop.

    As a module it registers its learned hyperparameters as parameters, for the outer optimizer, DDP and checkpoints.
    A learned hyperparameter stays inside its range under any outer optimizer: rates and decays are exponentials of a
    logarithm, momenta and averaging coefficients sigmoids of a logit. The logarithm or logit is the sum of two tensors:
    ``origins``, buffers with the initial value, and ``logs``, parameters that start at zero. So a weight decay of the
    outer optimizer pulls a hyperparameter to its initial value; a logarithm pulled to zero would make every rate one.

    Args:
        values: initial (or constant) value of each hyperparameter; each is stored as an attribute of that name.
        ranges: ``POSITIVE`` or ``UNIT`` for each hyperparameter.
        learned: names of the hyperparameters learned as one value for all inner steps.
        learned_per_step: names of those learned as one value per inner step.
        steps: number of inner steps, needed for ``learned_per_step``. Later steps use the last value.

    Raises:
        ValueError: if a name is unknown or a value is out of range; for a learned value the range is from 1e-12 to 1e12
            (``POSITIVE``) or from 3e-7 to 1 - 3e-7 (``UNIT``).
    """

    elementwise = False
    """Whether the update of each number depends only on that number's own history."""

    compilable = False
    """Whether `update` depends only on its arguments, on the constructor's and on `hyperparameters`, on the step only
    through these, so that mode ``fused`` may compile it. It holds for the class that sets it, not for its subclasses.
    """

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
        for key, value in values.items():
            setattr(self, key, value)
        self._ranges = dict(ranges)
        self._values = {key: float(value) for key, value in values.items()}
        for key in (*learned, *learned_per_step):
            if key not in ranges:
                raise ValueError(f"{name} has no hyperparameter {key!r} to learn: choose from {', '.join(ranges)}")
        both = set(learned) & set(learned_per_step)
        if both:
            raise ValueError(
                f"{name}: {both.pop()!r} is in both learned and learned_per_step: remove it from one of them"
            )
        if learned_per_step and (steps is None or steps < 1):
            raise ValueError(
                f"{name}: learned_per_step needs steps, the number of inner steps, at least 1, got {steps}"
            )
        self.logs = nn.ParameterDict()
        self.origins = nn.Module()
        for key, value in self._values.items():
            is_learned = key in self.learned or key in self.learned_per_step
            low_ok = value > 0 if is_learned else value >= 0
            if not (low_ok and value < (1 if ranges[key] == UNIT else math.inf)):
                bounds = ("above 0" if is_learned else "at least 0") + (" and below 1" if ranges[key] == UNIT else "")
                raise ValueError(f"{name}: {key} must be {bounds}{' to be learned' if is_learned else ''}, got {value}")
            if is_learned:
                raw = math.log(value) if ranges[key] == POSITIVE else math.log(value / (1 - value))
                if abs(raw) > _LIMITS[ranges[key]]:
                    raise ValueError(f"{name}: {key} is too close to the end of its range to be learned, got {value}")
                shape = (steps,) if key in self.learned_per_step and steps else ()
                self.logs[key] = nn.Parameter(torch.zeros(shape))
                self.origins.register_buffer(key, torch.full(shape, raw))

    def hyperparameters(self, step: int) -> dict[str, Value]:
        """Return every hyperparameter's value at an inner step (counted from zero)."""
        return {key: self._value(key, step) for key in self._values}

    def learned_values(self, first: int, steps: int) -> dict[str, Tensor]:
        """Return the values of all learned hyperparameters in some inner steps, ``[steps]`` each, with their graph.

        Args:
            first: the first of these steps, counted from zero.
            steps: how many.
        """
        found = {}
        for key in self.logs:
            raw: Tensor = getattr(self.origins, key) + self.logs[key]
            if not raw.ndim:
                raw = raw.expand(steps)
            elif first + steps <= raw.shape[0]:
                raw = raw[first : first + steps]
            else:
                raw = raw[torch.arange(first, first + steps).clamp(max=raw.shape[0] - 1)]
            found[key] = self._in_range(key, raw)
        return found

    def with_values(self, values: Mapping[str, Value]) -> Self:
        """Return this optimizer with other values of some hyperparameters, the same in all steps."""
        twin = copy.copy(self)
        all_values = {**self._values, **values}
        twin.hyperparameters = lambda step: all_values  # type: ignore[method-assign]
        return twin

    def settings(self) -> tuple[Any, ...]:
        """Return what decides how `update` computes, beside its arguments and the values of hyperparameters."""
        given = tuple(getattr(self, name) for name in _arguments(type(self)))
        return type(self), given, tuple(self._values.items()), tuple(self.logs)

    def schedules(self, steps: int) -> dict[str, Tensor]:
        """Return every hyperparameter's values in the first ``steps`` inner steps, detached, ``[steps]``."""
        with torch.no_grad():
            rows = [self.hyperparameters(step) for step in range(steps)]
            return {key: torch.tensor([float(row[key]) for row in rows]) for key in self._values}

    def constant(self, **values: float) -> Self:
        """Return this optimizer with its initial values and those passed here, and nothing learned."""
        signature = inspect.signature(type(self).__init__).parameters
        arguments = {name: getattr(self, name) for name in signature if name != "self"}
        return type(self)(**{**arguments, "learned": (), "learned_per_step": (), "steps": None, **values})

    def _value(self, key: str, step: int) -> Value:
        if key not in self.logs:
            return self._values[key]
        raw: Tensor = getattr(self.origins, key) + self.logs[key]
        if raw.ndim:
            raw = raw[min(step, raw.shape[0] - 1)]
        return self._in_range(key, raw)

    def _in_range(self, key: str, raw: Tensor) -> Tensor:
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
            state: the result of ``init`` or of the previous ``update``.
            params: the parameters.
            step: which inner step this is, counted from zero.

        Returns:
            The new parameters and the new state; nothing is written in place.
        """


@functools.cache
def _arguments(kind: type[InnerOptimizer]) -> tuple[str, ...]:
    """Return the names of the constructor's arguments other than those that say what is learned."""
    names = inspect.signature(kind.__init__).parameters
    return tuple(name for name in names if name not in ("self", "learned", "learned_per_step", "steps"))


def check_eps(name: str, eps: float) -> None:
    """Raise ``ValueError`` if an optimizer's epsilon is too small."""
    # The meta-gradient contains the third power of 1 / eps, which overflows float32 below this.
    if not eps >= 1e-12:
        raise ValueError(
            f"{name}: eps must be at least 1e-12, or the meta-gradient is NaN at a zero gradient, got {eps}"
        )


def with_weight_decay(grads: Params, params: Params, weight_decay: Value) -> Params:
    """Return the gradients with that of the L2 penalty."""
    if isinstance(weight_decay, float) and weight_decay == 0:
        return grads
    return {name: grad + weight_decay * params[name] for name, grad in grads.items()}


def as_real(tensors: Params) -> Params:
    """Return complex tensors as pairs of real numbers, for elementwise arithmetic."""
    return {name: torch.view_as_real(tensor) if tensor.is_complex() else tensor for name, tensor in tensors.items()}


def as_typed(given: Params, tensors: Params) -> Params:
    """Return pairs of real numbers as complex tensors where the given tensors are complex."""
    return {name: torch.view_as_complex(t) if given[name].is_complex() else t for name, t in tensors.items()}
