"""Numerical checks of recomputations, compiled programs and derivatives."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.central_differences import (
    as_real_numbers,
    distance,
    dot,
    double,
    random_direction,
    typical_slope,
)
from gtn_lightning.inner_loop.errors import InnerLoopError, RecomputationError, WrongDerivativeError
from gtn_lightning.inner_loop.stopped_gradients import writes_in_place
from gtn_lightning.inner_loop.torch_internals import tree_map_only
from gtn_lightning.inner_loop.types import Batch, Params, detached

ACCEPT = "checked=False accepts it"

CAUSES = (
    "it keeps a state in plain Python, or draws from a random generator that is not its attribute; "
    f"register its state as buffers and draw with torch's functions, or use mode 'reverse'; {ACCEPT}"
)

SCALE = 1e-3
"""Relative change of parameters before numerical differentiation, which moves them off kinks at zero."""

STEPS = (1e-8, 1e-7, 1e-9, 1e-6)
"""Relative steps of the central differences; one of them has to agree, since the others may cross a kink.

In a network with a million rectified units every larger step crosses a kink.
"""

TOLERANCE = 1e-5
"""Largest relative difference from the central difference."""

Product = Callable[[Params, Batch, Params], tuple[Mapping[str, Tensor | None], Sequence[Tensor | None]]]
"""``(params, batch, cotangents of the gradient) -> (products by each parameter, by each tensor of the batch)``."""


def agree(found: Iterable[Tensor | None], expected: Iterable[Tensor | None], rounding: torch.dtype) -> bool:
    """Return whether tensors are equal up to rounding.

    A tensor that is itself at rounding level, such as the gradient of a bias before a norm, may differ.

    Args:
        found: some tensors; None stands for zeros.
        expected: others of the same shapes.
        rounding: the least precise type in which they were computed.
    """
    eps = torch.finfo(rounding).eps
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None]
    tensors = [tuple(torch.zeros(()) if t is None else as_real_numbers(t.detach()) for t in pair) for pair in pairs]
    if all(torch.equal(a, b) for a, b in tensors):
        return True
    distances = [float((a.to(b.device) - b).norm()) for a, b in tensors]
    sizes = [float(b.norm()) for _, b in tensors]
    whole = math.sqrt(sum(size**2 for size in sizes))
    if not math.isfinite(whole):  # a diverged learner cannot be compared
        return True
    return all(
        distance <= math.sqrt(eps) * size + eps**0.7 * whole for distance, size in zip(distances, sizes, strict=True)
    )


def check_recomputation(
    loss: Tensor,
    grads: Mapping[str, Tensor],
    first_loss: Tensor,
    first_grads: Mapping[str, Tensor],
    rounding: torch.dtype,
) -> None:
    """Check that a recomputation has the result of the first computation.

    Args:
        loss: the recomputed loss.
        grads: the recomputed gradient, may be empty.
        first_loss: the loss of the first computation.
        first_grads: its gradient, of the same parameters as ``grads``.
        rounding: the least precise type in which they were computed.

    Raises:
        RecomputationError: if it has not.
    """
    eps = torch.finfo(rounding).eps
    one, other = float(loss), float(first_loss)
    near = abs(one - other) <= math.sqrt(eps) * abs(other) + 100 * eps
    # Non-finite values are handled by `meta_training.recovery`.
    if math.isfinite(one) and math.isfinite(other) and not near:
        raise RecomputationError(
            f"the learner cannot be taught in this mode: its loss was {other:.6g} in the forward pass and {one:.6g} "
            f"when the backward pass recomputed it. Probably {CAUSES}"
        )
    if not agree(grads.values(), first_grads.values(), rounding):
        raise RecomputationError(
            "the learner cannot be taught in this mode: the backward pass computed a different gradient than the "
            f"forward pass. Probably {CAUSES}"
        )


def check_derivative(
    gradient: Callable[[Params, Batch], Params],
    product: Product,
    params: Params,
    batch: Batch,
    wanted: Sequence[bool],
    suspects: Iterable[str],
) -> None:
    """Compare the derivative of an inner gradient with central differences, along random directions.

    In double precision; a warning is given if the learner cannot be evaluated in it.

    Args:
        gradient: the inner gradient as a function.
        product: its derivative's product with cotangents.
        params: parameters at which to compare.
        batch: batch at which to compare.
        wanted: for each tensor of the batch, whether its meta-gradient is needed.
        suspects: operations of the learner that may make the derivative wrong.

    Raises:
        WrongDerivativeError: if they differ.
    """
    names = ", ".join(sorted(suspects))
    generator = torch.Generator().manual_seed(0)
    try:
        with InDouble():
            # One direction may cross a kink; a wrong derivative is wrong along all of them.
            params, batch = {name: double(p) for name, p in detached(params).items()}, [double(t) for t in batch]
            right = any(_is_right(gradient, product, params, batch, wanted, generator) for _ in range(3))
    except InnerLoopError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        warnings.warn(
            f"the meta-gradient may be wrong because of {names} and cannot be checked: the learner "
            f"cannot be evaluated in double precision ({first_line(error)})",
            stacklevel=2,
        )
        return
    if not right:
        raise WrongDerivativeError(
            "the learner cannot be taught: the derivative of its gradient differs from central differences, "
            f"because of {names}. Use detach(), no_grad() and Tensor.register_hook, which are handled, and "
            f"autograd functions whose backward is the derivative of their forward; {ACCEPT}"
        )


class InDouble(TorchFunctionMode):
    """Computes in double precision, as central differences need.

    Also where a learner casts to lower precision, makes tensors of it, or has tensors of it that are no arguments.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _CASTS:
            return Tensor.double(*args)
        args = tuple(_doubled_type(arg) for arg in args)
        kwargs = {name: _doubled_type(value) for name, value in (kwargs or {}).items()}
        name = getattr(func, "__name__", "")
        if func not in _OF_THE_TENSOR_ITSELF and name not in ("__get__", "__set__"):
            kept = int(writes_in_place(name))
            args = (*args[:kept], *tree_map_only(Tensor, _doubled_tensor, args[kept:]))
            out = kwargs.pop("out", None)
            kwargs = tree_map_only(Tensor, _doubled_tensor, kwargs) | ({} if out is None else {"out": out})
        return func(*args, **kwargs)


_CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}
_OF_THE_TENSOR_ITSELF = {torch.autograd.grad, Tensor.register_hook, Tensor.retain_grad}
"""Functions for which a copy in double precision is another tensor."""


def _doubled_tensor(tensor: Tensor) -> Tensor:
    is_lower = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
    return double(tensor) if is_lower else tensor


def _doubled_type(value: Any) -> Any:
    if isinstance(value, torch.dtype) and value in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float64
    return torch.complex128 if value is torch.complex64 else value


def _is_right(
    gradient: Callable[[Params, Batch], Params],
    product: Product,
    params: Params,
    batch: Batch,
    wanted: Sequence[bool],
    generator: torch.Generator,
) -> bool:
    """Return whether the derivative of a gradient along a random direction agrees with central differences."""
    params = {name: p + SCALE * random_direction(p, generator) for name, p in params.items()}
    batch = [t + SCALE * random_direction(t, generator) if want else t for t, want in zip(batch, wanted, strict=True)]
    along = {name: random_direction(p, generator) for name, p in params.items()}
    along_batch = [random_direction(t, generator) if want else None for t, want in zip(batch, wanted, strict=True)]
    cotangents = {name: random_direction(p, generator) for name, p in params.items()}
    by_params, by_batch = product(params, batch, cotangents)
    pairs = [*((by_params[name], along[name]) for name in params), *zip(by_batch, along_batch, strict=True)]
    slopes = [(a, b) for a, b in pairs if a is not None and b is not None]

    def value(shift: float) -> float:
        moved = {name: p + shift * along[name] for name, p in params.items()}
        inputs = [
            t if direction is None else t + shift * direction for t, direction in zip(batch, along_batch, strict=True)
        ]
        grads = gradient(moved, inputs)
        return sum(float(dot(grads[name], cotangents[name])) for name in params)

    slope = sum(float(dot(a, b)) for a, b in slopes)
    error = distance(value, slope, typical_slope(slopes), STEPS, TOLERANCE)
    return error <= TOLERANCE or math.isnan(error)  # a diverged learner cannot be compared
