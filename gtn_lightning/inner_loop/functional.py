"""A module as a pure function of its parameters, its buffers and its inputs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

Params = dict[str, Tensor]
"""Parameters by name."""

Buffers = dict[str, Tensor]
"""Buffers by name, such as the running statistics of batch normalisation."""


class Functional:
    """A module seen as a pure function ``(params, buffers, inputs) -> (outputs, buffers)``.

    The module itself lends its code and its initial values; it is never trained and its tensors are never written to.

    Args:
        module: the module. Its mode (training or evaluation) is set at each call.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def init(self) -> tuple[Params, Buffers]:
        """Return the module's present parameters and buffers, detached from any graph."""
        params = {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        buffers = {name: buffer.detach() for name, buffer in self.module.named_buffers()}
        return params, buffers

    def __call__(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *inputs: Any, training: bool = True
    ) -> tuple[Any, Buffers]:
        """Run the module with the given parameters and buffers.

        Running statistics are updated by the layers in place and outside of autograd: the returned buffers carry their
        values, not their gradient, as everywhere in torch. With batch statistics (training mode, or layers built with
        ``track_running_stats=False``) there is nothing missing from the meta-gradient.

        Args:
            params: parameters by name.
            buffers: buffers by name; left untouched.
            inputs: the positional arguments of the module.
            training: whether layers such as dropout and batch normalisation behave as in training.

        Returns:
            The module's outputs and the buffers as the call left them.
        """
        if self.module.training != training:
            self.module.train(training)
        # Layers write to their buffers in place: give them copies.
        updated = {name: buffer.clone() for name, buffer in buffers.items()}
        outputs = functional_call(self.module, {**params, **updated}, inputs)
        return outputs, updated
