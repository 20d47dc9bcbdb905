"""The memory layout that programs are compiled for: images and filters with their channels last.

A CPU's convolutions, poolings and norms are up to nine times as fast in it; max pooling in the default layout is not
vectorized.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from gtn_lightning.inner_loop.types import Batch, Params


def channels_last(tensors: Mapping[str, Tensor]) -> Params:
    """Return tensors, detached, in the layout that programs are compiled for."""
    return {name: _channels_last(tensor.detach()) for name, tensor in tensors.items()}


def channels_last_batch(params: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, ...]:
    """Return a batch in that layout; images keep theirs if the learner has no filters, since it flattens them."""
    filters = any(tensor.ndim == 4 for tensor in params.values())
    return tuple(_channels_last(tensor.detach()) if filters else tensor.detach().contiguous() for tensor in batch)


def laid_out(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return tensors without a graph in the layout that programs are compiled for."""
    return [tensor if tensor.ndim != 4 and tensor.is_contiguous() else _channels_last(tensor) for tensor in tensors]


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor.contiguous()
    if tensor.shape[1] == 1:
        # With one channel both layouts have the same memory, and torch reports the strides of the default one.
        count, _, height, width = tensor.shape
        return tensor.reshape(count, height, width, 1).permute(0, 3, 1, 2)
    return tensor.contiguous(memory_format=torch.channels_last)
