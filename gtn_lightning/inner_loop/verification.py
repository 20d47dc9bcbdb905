"""Numerical checks of what cannot be known from a learner's code: recomputations, compiled programs, derivatives."""

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
    "it keeps a state in plain Python, or draws from a random generator that it does not hold as an attribute; "
    f"register what it keeps as buffers and draw with torch's functions, or use mode 'reverse'; {ACCEPT}"
)

SCALE = 1e-3
"""By how much of their size parameters are moved before they are differentiated numerically, off the kinks at zero."""

STEPS = (1e-8, 1e-7, 1e-9, 1e-6)
"""Relative steps of the central differences; one of them has to agree, since a kink may lie within the others.

A network of a million rectified numbers has a kink within every larger step.
"""

TOLERANCE = 1e-5
"""Largest relative difference from the central difference."""

Product = Callable[[Params, Batch, Params], tuple[Mapping[str, Tensor | None], Sequence[Tensor | None]]]
"""``(params, batch, cotangents of the gradient) -> (products by each parameter, by each tensor of the batch)``."""


def agree(found: Iterable[Tensor | None], expected: Iterable[Tensor | None], rounding: torch.dtype) -> bool:
    """Return whether tensors are equal but for the order of rounding.

    A tensor that is nothing but rounding beside the others, such as the gradient by a bias before a norm, may differ.

    Args:
        found: some tensors; None stands for zeros.
        expected: others of the same shapes.
        rounding: the least precise type that they were computed in.
    """
    eps = torch.finfo(rounding).eps
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None]
    tensors = [tuple(torch.zeros(()) if t is None else _real(t.detach()) for t in pair) for pair in pairs]
    if all(torch.equal(a, b) for a, b in tensors):
        return True
    distances = [float((a.to(b.device) - b).norm()) for a, b in tensors]
    sizes = [float(b.norm()) for _, b in tensors]
    whole = math.sqrt(sum(size**2 for size in sizes))
    if not math.isfinite(whole):  # a diverged learner says nothing
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
    """See that a recomputation has the result of the first computation.

    Args:
        loss: the recomputed loss.
        grads: the recomputed gradient, or nothing.
        first_loss: the loss as it was first computed.
        first_grads: the gradient as it was first computed, of the same parameters as `grads`.
        rounding: the least precise type that they were computed in.

    Raises:
        RecomputationError: if it does not.
    """
    eps = torch.finfo(rounding).eps
    one, other = float(loss), float(first_loss)
    near = abs(one - other) <= math.sqrt(eps) * abs(other) + 100 * eps
    # Where either is not finite, so is what is made of it, which others look after.
    if math.isfinite(one) and math.isfinite(other) and not near:
        raise RecomputationError(
            f"the learner cannot be taught in this mode: its loss was {other:.6g} in the forward pass and {one:.6g} "
            f"when the backward pass computed it again. Probably {CAUSES}"
        )
    if not agree(grads.values(), first_grads.values(), rounding):
        raise RecomputationError(
            "the learner cannot be taught in this mode: the backward pass computed another gradient than the forward "
            f"pass. Probably {CAUSES}"
        )


def check_derivative(
    gradient: Callable[[Params, Batch], Params],
    product: Product,
    params: Params,
    batch: Batch,
    wanted: Sequence[bool],
    suspects: Iterable[str],
) -> None:
    """Hold the derivative of an inner gradient against central differences, along random directions.

    In double precision; a learner that cannot be evaluated in it is warned of.

    Args:
        gradient: the inner gradient as a function.
        product: its derivative's product with cotangents.
        params: where.
        batch: where.
        wanted: for each tensor of the batch, whether a meta-gradient by it is wanted.
        suspects: what the learner does that may make the derivative wrong.

    Raises:
        WrongDerivativeError: if they differ.
    """
    names = ", ".join(sorted(suspects))
    generator = torch.Generator().manual_seed(0)
    try:
        with InDouble():
            # A kink may lie in the way of one direction; a wrong derivative is wrong along all of them.
            right = any(_is_right(gradient, product, *_double(params, batch), wanted, generator) for _ in range(3))
    except InnerLoopError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        warnings.warn(
            f"whether the meta-gradient is right cannot be checked, as it should be because of {names}: the learner "
            f"cannot be evaluated in double precision ({first_line(error)})",
            stacklevel=2,
        )
        return
    if not right:
        raise WrongDerivativeError(
            "the learner cannot be taught: the derivative of its gradient is not that of central differences, "
            f"because of {names}. Use detach(), no_grad() and Tensor.register_hook, which are followed, and "
            f"autograd functions whose backward is the derivative of their forward; {ACCEPT}"
        )


class InDouble(TorchFunctionMode):
    """Turns what a learner asks for in lower precision into double precision: central differences need it."""

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
    """Return whether the derivative of a gradient along a random direction is that of central differences."""
    params = {name: p + SCALE * _like(p, generator) for name, p in params.items()}
    batch = [t + SCALE * _like(t, generator) if want else t for t, want in zip(batch, wanted, strict=True)]
    along = {name: _like(p, generator) for name, p in params.items()}
    along_batch = [_like(t, generator) if want else None for t, want in zip(batch, wanted, strict=True)]
    cotangents = {name: _like(p, generator) for name, p in params.items()}
    by_params, by_batch = product(params, batch, cotangents)
    pairs = [*((by_params[name], along[name]) for name in params), *zip(by_batch, along_batch, strict=True)]
    slope = sum(float(_dot(a, b)) for a, b in pairs if a is not None and b is not None)
    # The size that the slope has along a direction like this one, so that one near zero is no relative error.
    sizes = [float(a.norm() * b.norm()) / math.sqrt(a.numel()) for a, b in pairs if a is not None and b is not None]
    for step in STEPS:
        values = []
        for sign in (step, -step):
            moved = {name: p + sign * along[name] for name, p in params.items()}
            inputs = [t if way is None else t + sign * way for t, way in zip(batch, along_batch, strict=True)]
            grads = gradient(moved, inputs)
            values.append(sum(float(_dot(grads[name], cotangents[name])) for name in params))
        difference = (values[0] - values[1]) / (2 * step)
        scale = max(abs(difference), abs(slope), 0.1 * math.sqrt(sum(size**2 for size in sizes)))
        if abs(difference - slope) <= TOLERANCE * scale or not math.isfinite(difference):
            return True
    return False


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random direction, as long as the tensor, or of length one beside a zero."""
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
