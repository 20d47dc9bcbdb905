"""Types shared by the inner loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name."""

Buffers = dict[str, Tensor]
"""Buffers by name, such as the running statistics of batch normalization."""

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


class Cotangents(NamedTuple):
    """The meta-loss's gradient w.r.t. an inner gradient and its loss."""

    grads: Mapping[str, Tensor | None]
    """Per parameter, w.r.t. its inner gradient; None for zero."""
    loss: Tensor | None = None
    """W.r.t. the inner loss; None for zero, the usual case."""

    @property
    def has_vector(self) -> bool:
        """Whether any cotangent of the gradient is not zero."""
        return any(cotangent is not None for cotangent in self.grads.values())


class Products(NamedTuple):
    """The meta-loss's gradient w.r.t. what an inner gradient was computed from."""

    params: dict[str, Tensor | None]
    batch: list[Tensor | None]


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without their graphs."""
    return {name: tensor.detach() for name, tensor in tensors.items()}


def is_continuous(tensor: Tensor) -> bool:
    """Return whether a tensor holds real or complex numbers, so that it has derivatives."""
    return tensor.is_floating_point() or tensor.is_complex()
