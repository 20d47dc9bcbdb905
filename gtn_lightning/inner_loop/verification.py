"""Numerical checks of recomputations, compiled programs and derivatives."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.errors import InnerLoopError, RecomputationError, WrongDerivativeError
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
    tensors = [tuple(torch.zeros(()) if t is None else _real(t.detach()) for t in pair) for pair in pairs]
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
            right = any(_is_right(gradient, product, *_double(params, batch), wanted, generator) for _ in range(3))
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
    """Computes in double precision, as central differences need, where a learner casts to lower precision."""

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
        return func(*args, **{name: _doubled_type(value) for name, value in (kwargs or {}).items()})


_CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}


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
    params = {name: p + SCALE * _like(p, generator) for name, p in params.items()}
    batch = [t + SCALE * _like(t, generator) if want else t for t, want in zip(batch, wanted, strict=True)]
    along = {name: _like(p, generator) for name, p in params.items()}
    along_batch = [_like(t, generator) if want else None for t, want in zip(batch, wanted, strict=True)]
    cotangents = {name: _like(p, generator) for name, p in params.items()}
    by_params, by_batch = product(params, batch, cotangents)
    pairs = [*((by_params[name], along[name]) for name in params), *zip(by_batch, along_batch, strict=True)]
    slope = sum(float(_dot(a, b)) for a, b in pairs if a is not None and b is not None)
    # The typical slope along a random direction, so that a slope near zero causes no large relative error.
    sizes = [float(a.norm() * b.norm()) / math.sqrt(a.numel()) for a, b in pairs if a is not None and b is not None]
    for step in STEPS:
        values = []
        for sign in (step, -step):
            moved = {name: p + sign * along[name] for name, p in params.items()}
            inputs = [
                t if direction is None else t + sign * direction
                for t, direction in zip(batch, along_batch, strict=True)
            ]
            grads = gradient(moved, inputs)
            values.append(sum(float(_dot(grads[name], cotangents[name])) for name in params))
        difference = (values[0] - values[1]) / (2 * step)
        scale = max(abs(difference), abs(slope), 0.1 * math.sqrt(sum(size**2 for size in sizes)))
        if abs(difference - slope) <= TOLERANCE * scale or not math.isfinite(difference):
            return True
    return False


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random direction of the tensor's norm, or of norm one for a zero tensor."""
    noise = torch.randn(tensor.shape, dtype=torch.promote_types(tensor.dtype, torch.float32), generator=generator)
    noise = noise.to(tensor)
    size = tensor.norm()
    return noise * torch.where(size > 0, size, 1.0) / noise.norm().clamp(min=1e-12)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (_real(one) * _real(other)).sum()


def _real(tensor: Tensor) -> Tensor:
    """Return a tensor as real numbers of at least float32."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _double(params: Params, batch: Batch) -> tuple[Params, Batch]:
    def doubled(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128)
        return tensor.double() if tensor.is_floating_point() else tensor

    return {name: doubled(p) for name, p in detached(params).items()}, [doubled(t.detach()) for t in batch]
