"""A module as a pure function of its parameters, its buffers and its inputs."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import _WeightNorm

from gtn_lightning.inner_loop.formulas import Formulas
from gtn_lightning.inner_loop.types import Buffers, Params


class Functional:
    """A module seen as a pure function ``(params, buffers, inputs) -> (outputs, buffers)``.

    The module itself lends its code and its initial values; it is never trained and its tensors are never
    written to.

    Args:
        module: the module. Its mode (training or evaluation) is set at each call.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # Intercepting torch's functions costs a little at every call: only where there is one to intercept.
        self._weight_norm = any(isinstance(part, _WeightNorm) for part in module.modules())

    def init(self) -> tuple[Params, Buffers]:
        """Return the module's present parameters and buffers, detached from any graph.

        Parameters that do not require grad are left out: frozen, they stay the module's own.
        """
        params = {
            name: parameter.detach() for name, parameter in self.module.named_parameters() if parameter.requires_grad
        }
        buffers = {name: buffer.detach() for name, buffer in self.module.named_buffers()}
        return params, buffers

    def __call__(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *inputs: Any, training: bool = True
    ) -> tuple[Any, Buffers]:
        """Run the module with the given parameters and buffers.

        Running statistics are updated by the layers in place and outside of autograd: the returned buffers
        carry their values, not their gradient, as everywhere in torch. With batch statistics (training mode,
        or layers built with ``track_running_stats=False``) there is nothing missing from the meta-gradient.

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
        # Layers write to their buffers in place: give them copies. A layer that assigns a new tensor instead
        # has it put into `tensors`.
        tensors = {**params, **{name: buffer.clone() for name, buffer in buffers.items()}}
        intercept = self._weight_norm or torch.compiler.is_compiling()
        with Formulas() if intercept else nullcontext():
            outputs = functional_call(self.module, tensors, inputs)
        return outputs, {name: tensors[name].detach() for name in buffers}
