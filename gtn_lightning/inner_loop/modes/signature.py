"""Identifies architectures of learners, so that decisions made for one learner hold for the next."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gtn_lightning.inner_loop.replay import AutocastState
from gtn_lightning.inner_loop.types import Batch, LossFn

Signature = tuple[Any, ...]
"""The loss, and the shapes of its arguments."""


def signature(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: Batch,
    autocast: AutocastState | None = None,
) -> Signature:
    """Return what determines the time of an inner gradient: the loss, all shapes and types, device and autocast.

    ``autocast`` is the setting of the forward pass, the current one if None.
    """
    device = next(iter(params.values())).device
    return (
        getattr(loss_fn, "__module__", ""),
        getattr(loss_fn, "__qualname__", type(loss_fn).__qualname__),
        tuple((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in params.items()),
        tuple((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in buffers.items()),
        tuple((tuple(tensor.shape), str(tensor.dtype)) for tensor in batch),
        str(device),
        autocast or AutocastState.current(device),
    )
