"""The inner gradient as one node of the autograd graph.

The node's forward computes the gradient and keeps its inputs only; its backward receives cotangents ``v`` of the
gradient and returns ``v^T H``, the Hessian-vector product, and the mixed products with the batch. Memory per inner
step is then a few copies of the parameters instead of all activations. The mode decides how the two halves are computed
and what else is kept.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gtn_lightning.inner_loop.capture import is_recorded
from gtn_lightning.inner_loop.modes.base import Mode, first_order
from gtn_lightning.inner_loop.modes.rejection import reject_wrong_derivative
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, Cotangents, InnerGradient, LossFn, Params, Products, detached
from gtn_lightning.inner_loop.verification import check_recomputation


class Saved(NamedTuple):
    """The tensors that a node keeps."""

    params: Params
    """The parameters it was called with, detached."""
    batch: Batch
    """The batch it was called with, detached."""
    kept: Sequence[Tensor] = ()
    """What the mode keeps in addition."""


class Call:
    """What a node keeps besides tensors: the loss, constants, and the random and autocast state."""

    def __init__(
        self,
        loss_fn: LossFn,
        names: tuple[str, ...],
        buffers: Mapping[str, Tensor],
        device: torch.device,
        checked: bool,
    ) -> None:
        self.loss_fn = loss_fn
        self.names = names
        self.buffers = buffers
        self.buffer_names: tuple[str, ...] = ()
        self.checked = checked
        self.traits = traits_of(loss_fn)
        self.sampled = self.traits.due
        """Whether this is one of the calls that are observed and compared in full."""
        self.context = ReplayContext(device, foreign=self.sampled or self.traits.foreign)
        self._first: tuple[Tensor, Params] | None = None

    def keep_result(self, found: InnerGradient) -> None:
        """Keep the expected result of a recomputation: the loss, and in a sampled call the gradient."""
        # On a GPU, reading a number waits for all kernels launched before.
        if self.checked and (self.sampled or found.loss.device.type == "cpu") and not is_recorded():
            # Not the tensors themselves: they become outputs of the node, which references this call.
            self._first = found.loss.detach(), detached(found.grads) if self.sampled else {}

    def check_recomputation(self, loss: Tensor, grads: Mapping[str, Tensor]) -> None:
        """Raise ``RecomputationError`` if a recomputation has another result than the first computation."""
        if self._first is not None:
            first_loss, first_grads = self._first
            if not first_grads and torch.equal(loss.detach(), first_loss):
                return
            own = {name: grads[name] for name in first_grads}
            rounding = self.context.autocast.rounding([loss, *grads.values()])
            check_recomputation(loss.detach(), own, first_loss, first_grads, rounding)


class Computed(NamedTuple):
    """A gradient, and the function that differentiates it."""

    gradient: InnerGradient
    kept: Sequence[Tensor]
    """What the node keeps for it besides its inputs."""
    products: Callable[[Call, Saved, Cotangents, Sequence[bool]], Products]
    """As ``Recomputing.products``."""


class NodeMode(Mode):
    """A mode whose inner gradient is a node."""

    @abstractmethod
    def gradient(self, call: Call, params: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]) -> Computed:
        """Compute the gradient, and return how to differentiate it.

        Args:
            call: the call of the node.
            params: the parameters.
            batch: the batch.
            wanted: for each tensor of the batch, whether its product will be needed.
        """

    def differentiable(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        checked: bool = True,
    ) -> InnerGradient:
        """Compute the gradient as one node; see the base class."""
        names = tuple(params)
        call = Call(loss_fn, names, buffers, params[names[0]].device, checked)
        outputs = _Node.apply(self, call, *params.values(), *batch)
        loss, grads, new_buffers = outputs[0], outputs[1 : len(names) + 1], outputs[len(names) + 1 :]
        return InnerGradient(
            dict(zip(names, grads, strict=True)), loss, dict(zip(call.buffer_names, new_buffers, strict=True))
        )


class Recomputing(NodeMode):
    """A mode that keeps no intermediate results and recomputes the gradient to differentiate it."""

    def gradient(self, call: Call, params: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]) -> Computed:
        """Compute the gradient; see the base class."""
        return Computed(first_order(call.loss_fn, params, call.buffers, batch, call.context), (), self.products)

    @abstractmethod
    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Differentiate the gradient.

        Args:
            call: the call of the node.
            saved: what it kept.
            cotangents: of the gradient and the loss, at least one of them.
            wanted: for each tensor of the batch, whether its product is needed.

        Raises:
            NotTwiceDifferentiableError: if an operator of the loss has no second derivative.
        """


class _Node(torch.autograd.Function):
    """``(params, batch) -> (loss, grads, buffers)``."""

    @staticmethod
    def forward(ctx: Any, mode: NodeMode, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        split = len(call.names)
        params = dict(zip(call.names, tensors[:split], strict=True))
        wanted = ctx.needs_input_grad[split + 2 :]
        with record_function("inner gradient"), call.context.tracked():
            computed = mode.gradient(call, params, tensors[split:], wanted)
        found = computed.gradient
        if call.sampled:
            call.traits.foreign |= call.context.drew_foreign
        if call.checked:
            reject_wrong_derivative(
                call.loss_fn, params, call.buffers, tensors[split:], wanted, call.traits, call.context
            )
        call.keep_result(found)
        call.buffer_names = tuple(found.buffers)
        ctx.products, ctx.call = computed.products, call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *computed.kept)
        ctx.inputs = len(tensors)
        ctx.mark_non_differentiable(*found.buffers.values())
        return (found.loss, *(found.grads[name] for name in call.names), *found.buffers.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        names, split = call.names, len(call.names)
        tensors = [tensor.detach() for tensor in ctx.saved_tensors[: ctx.inputs]]
        given = Cotangents(dict(zip(names, cotangents[1 : split + 1], strict=True)), cotangents[0])
        needed = ctx.needs_input_grad[2:]
        if not any(needed) or not (given.has_vector or given.loss is not None):
            return (None, None, *[None] * len(tensors))
        saved = Saved(dict(zip(names, tensors[:split], strict=True)), tensors[split:], ctx.saved_tensors[ctx.inputs :])
        with record_function("inner gradient, backward"):
            found: Products = ctx.products(call, saved, given, needed[split:])
        return (None, None, *(found.params[name] for name in names), *found.batch)
