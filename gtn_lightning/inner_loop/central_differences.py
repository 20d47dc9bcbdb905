"""Central differences of a function of one number, and how far a derivative is from them."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def distance(
    value: Callable[[float], float], slope: float, typical: float, steps: Iterable[float], enough: float
) -> float:
    """Return the smallest relative distance of a slope at zero from central differences.

    The smallest, because a large step may cross a kink and a small one drowns in rounding errors: a wrong slope agrees
    with none of them.

    Args:
        value: the function.
        slope: what its derivative at zero should be.
        typical: size of an ordinary slope, so that one near zero causes no large relative distance.
        steps: steps of the differences, in the order in which they are tried.
        enough: a distance at which to try no more.

    Returns:
        The distance, NaN if the function is not finite.
    """
    smallest = math.inf
    for step in steps:
        difference = (value(step) - value(-step)) / (2 * step)
        if not math.isfinite(difference):
            return math.nan
        scale = max(abs(difference), abs(slope), typical)
        smallest = min(smallest, abs(difference - slope) / scale if scale else 0.0)
        if smallest <= enough:
            break
    return smallest


def typical_slope(slopes: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return a tenth of the size that the slope along a random direction has.

    Args:
        slopes: the gradient and the direction of each tensor.
    """
    sizes = [float(gradient.norm() * along.norm()) / math.sqrt(gradient.numel()) for gradient, along in slopes]
    return 0.1 * math.sqrt(sum(size**2 for size in sizes))


def random_direction(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random direction of the tensor's norm, or of norm one for a zero tensor.

    Args:
        tensor: a tensor of real or complex numbers.
        generator: a CPU generator.
    """
    noise = torch.randn(tensor.shape, dtype=torch.promote_types(tensor.dtype, torch.float32), generator=generator)
    noise = noise.to(tensor)
    size = tensor.norm()
    return noise * torch.where(size > 0, size, 1.0) / noise.norm().clamp(min=1e-12)


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of products of two tensors' numbers, complex ones as pairs of real ones."""
    return (as_real_numbers(one) * as_real_numbers(other)).sum()


def as_real_numbers(tensor: Tensor) -> Tensor:
    """Return a tensor as real numbers of at least float32, dense."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def double(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision; integers stay."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
