"""Formulas in place of torch's operators that compile badly or not at all."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Pair = int | tuple[int, int]
"""An argument of a convolution or pooling: one number for both axes, or one for each."""


class CompilerFormulas(TorchFunctionMode):
    """Replaces operators in a function that dynamo captures.

    * Group normalization: its forward-mode derivative cannot be traced.
    * Max pooling over tiles: the compiler turns the kernel's indices into scalar loops; comparisons are vectorized.
    * Convolutions of one-channel images on a CPU: a matrix product is several times as fast as the channels-last
      kernels, which also compute with the images' tangent, though it is zero.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.group_norm:
            return group_norm(*args, **kwargs)
        if func is F.max_pool2d and is_tiling(*args, **kwargs):
            return max_pool_tiles(*args, **kwargs)
        if func is F.conv2d and has_one_channel(*args, **kwargs):
            return convolve_one_channel(*args, **kwargs)
        return func(*args, **kwargs)


# The arguments below have torch's names, since learners may pass them by keyword.


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Return what ``torch.nn.functional.group_norm`` does; input ``[B, C, ...]``, computed in float32 at least."""
    grouped = input.to(torch.promote_types(input.dtype, torch.float32)).unflatten(1, (num_groups, -1))
    others = tuple(range(2, grouped.ndim))
    centered = grouped - grouped.mean(others, keepdim=True)
    outputs = (centered * (centered.square().mean(others, keepdim=True) + eps).rsqrt()).flatten(1, 2)
    shape = (-1, *[1] * (input.ndim - 2))
    if weight is not None:
        outputs = outputs * weight.view(shape)
    if bias is not None:
        outputs = outputs + bias.view(shape)
    return outputs.to(input.dtype)


def is_tiling(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> bool:
    """Return whether a max pooling is over tiles that do not overlap."""
    return (
        input.ndim == 4
        and (not stride or _pair(stride) == _pair(kernel_size))
        and _pair(padding) == (0, 0)
        and _pair(dilation) == (1, 1)
        and not ceil_mode
        and not return_indices
    )


def max_pool_tiles(input: Tensor, kernel_size: Pair, *_: Any, **__: Any) -> Tensor:
    """Return what ``torch.nn.functional.max_pool2d`` does where ``is_tiling`` holds for the arguments.

    Of several largest pixels, the first in the order of rows and then columns receives the gradient.

    Args:
        input: ``[B, C, H, W]``.
        kernel_size: height and width of a tile.
    """
    rows, columns = _pair(kernel_size)
    height, width = input.shape[2] // rows, input.shape[3] // columns
    # Axes in the order of memory, channels last: the compiler lays results out in the order of their axes.
    # One axis after the other, so that the gradient needs two passes only.
    whole = input.permute(0, 2, 3, 1)[:, : height * rows, : width * columns]
    across = _largest(whole.unflatten(2, (width, columns)).unbind(3))
    return _largest(across.unflatten(1, (height, rows)).unbind(2)).permute(0, 3, 1, 2)


def _largest(candidates: Sequence[Tensor]) -> Tensor:
    largest = candidates[0]
    for candidate in candidates[1:]:
        # NaN counts as the largest, as in torch's kernel; isnan() would not be vectorized.
        largest = torch.where((candidate > largest) | candidate.ne(candidate), candidate, largest)
    return largest


def has_one_channel(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: str | Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> bool:
    """Return whether a convolution is of one-channel images on a CPU, without groups or dilation."""
    return (
        input.device.type == "cpu"
        and input.ndim == 4
        and input.shape[1] == 1
        and groups == 1
        and not isinstance(padding, str)
        and _pair(dilation) == (1, 1)
    )


def convolve_one_channel(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    *_: Any,
    **__: Any,
) -> Tensor:
    """Return what ``torch.nn.functional.conv2d`` does where ``has_one_channel`` holds for the arguments.

    It is one matrix product of shifted images and filters.

    Args:
        input: ``[B, 1, H, W]``.
        weight: ``[C, 1, h, w]``.
        bias: ``[C]``.
        stride: pixels between outputs.
        padding: zero pixels added on every side.

    Returns:
        ``[B, C, H', W']``, channels last.
    """
    (down, across), (rows, columns) = _pair(stride), _pair(padding)
    padded = F.pad(input[:, 0], (columns, columns, rows, rows))
    tall, wide = weight.shape[2:]
    height, width = (padded.shape[1] - tall) // down + 1, (padded.shape[2] - wide) // across + 1
    shifted = [
        padded[:, row : row + down * (height - 1) + 1 : down, column : column + across * (width - 1) + 1 : across]
        for row in range(tall)
        for column in range(wide)
    ]
    outputs = torch.stack(shifted).flatten(1).t() @ weight.flatten(1).t()
    if bias is not None:
        outputs = outputs + bias
    return outputs.view(len(input), height, width, -1).permute(0, 3, 1, 2)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
