"""The words that the parts of the inner loop share."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name."""

Buffers = dict[str, Tensor]
"""Buffers by name, such as the running statistics of batch normalisation."""

LossFn = Callable[..., tuple[Tensor, Buffers]]
"""``loss_fn(params, buffers, *batch) -> (scalar loss, buffers)``, a pure function of its arguments."""

Batch = Sequence[Tensor]
"""The tensors of one batch, in the order in which the loss takes them, for instance ``(inputs, targets)``."""


class InnerGradient(NamedTuple):
    """What one evaluation of the inner loss yields."""

    grads: Params
    """Gradient of the loss w.r.t. each parameter, shaped as the parameters."""
    loss: Tensor
    """The loss, a scalar."""
    buffers: Buffers
    """The learner's buffers after the forward pass; no gradient flows through them."""


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without their graphs."""
    return {name: tensor.detach() for name, tensor in tensors.items()}


def is_wrapped(tensor: Tensor) -> bool:
    """Return whether a tensor stands for another within a transform of ``torch.func``, which keeps the graph."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def is_continuous(tensor: Tensor) -> bool:
    """Return whether a tensor holds real or complex numbers, by which a derivative can be taken."""
    return tensor.is_floating_point() or tensor.is_complex()
