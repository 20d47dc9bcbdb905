"""Batches that are made when inner steps need them, and made again rather than kept."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from gtn_lightning.inner_loop.types import Batch


class RequestedBatches:
    """The batches of an inner loop, each made from a request, such as a generator's noise.

    Iterating over it makes all batches once, in turn. In segments, `unroll` keeps the requests and makes the batches
    again together with the steps that it runs again, so that memory does not grow with all batches of a long loop.

    Args:
        requests: one per inner step, tensors and numbers in dicts, lists and (named) tuples. Their tensors may require
            grad.
        make: takes some successive requests and returns their batches, or a generator of them. It may draw random
            numbers, which are replayed.
        parameters: the leaves that require grad and that the batches depend on besides the requests.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import SGD, Functional, RequestedBatches, unroll
        >>> network, teacher = Functional(torch.nn.Linear(3, 2)), torch.nn.Linear(4, 3)
        >>> def loss(params, buffers, inputs, targets):
        ...     outputs, buffers = network(params, buffers, inputs)
        ...     return F.cross_entropy(outputs, targets), buffers
        >>> labels = torch.arange(8) % 2
        >>> batches = RequestedBatches(
        ...     requests=[torch.randn(8, 4) for _ in range(50)],
        ...     make=lambda noises: ((teacher(noise), labels) for noise in noises),
        ...     parameters=list(teacher.parameters()),
        ... )
        >>> trained = unroll(loss, *network.init(), batches, SGD(lr=0.1), mode="remat", segment=[16, 4])
        >>> trained.params["weight"].sum().backward()
        >>> teacher.weight.grad.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        requests: Sequence[Any],
        make: Callable[[Sequence[Any]], Iterable[Batch]],
        parameters: Sequence[Tensor] = (),
    ) -> None:
        self.requests = requests
        self.make = make
        self.parameters = tuple(parameters)

    def __iter__(self) -> Iterator[Batch]:
        """Make the batches, one after the other."""
        return iter(self.make(self.requests))
