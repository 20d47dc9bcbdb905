"""Mode ``reverse``: ordinary double backward.

The gradient is computed with its graph, which keeps all activations until the meta-gradient is computed. It is the
reference of the tests, and the fastest mode for tiny inner loops.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gtn_lightning.inner_loop.autograd_graph import naming_operator, reject_silently_wrong
from gtn_lightning.inner_loop.loss import evaluated
from gtn_lightning.inner_loop.modes.base import Mode, dense
from gtn_lightning.inner_loop.modes.rejection import reject_wrong_derivative
from gtn_lightning.inner_loop.modes.remat import Remat
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn, detached, is_continuous


class Reverse(Mode):
    """Keep the graph of the gradient.

    Learners that checkpoint their activations run in mode ``remat``: their graph is valid only while the module holds
    the parameters.
    """

    def __init__(self, fallback: Remat) -> None:
        self._fallback = fallback

    def differentiable(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        checked: bool = True,
    ) -> InnerGradient:
        """Compute the gradient with its graph; see the base class."""
        variables = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        traits = traits_of(loss_fn)
        due = traits.due
        context = ReplayContext(next(iter(params.values())).device, foreign=due or traits.foreign)
        # If the loss is observed, the batch is a variable too, so that stops between it and the loss are seen.
        inputs = [
            tensor.detach().requires_grad_() if due and is_continuous(tensor) and not tensor.requires_grad else tensor
            for tensor in batch
        ]
        with (
            context.tracked(),
            evaluated(loss_fn, variables, buffers, inputs, traits, context, closed=False) as found,
        ):
            if not traits.checkpoints:
                reject_silently_wrong(found.graph)
                with naming_operator():
                    given = torch.autograd.grad(
                        found.loss, list(variables.values()), create_graph=True, allow_unused=True
                    )
                    # The zeros of materialize_grads would be leaves that require grad.
                    grads = [
                        torch.zeros_like(variable) if grad is None else dense(grad)
                        for variable, grad in zip(variables.values(), given, strict=True)
                    ]
                    if due:
                        _rehearse(grads, [*variables.values(), *(t for t in batch if t.requires_grad)])
        if due:
            traits.foreign |= context.drew_foreign
        if traits.checkpoints:
            with context.restored():
                return self._fallback.differentiable(loss_fn, params, buffers, batch, checked)
        if checked:
            wanted = [tensor.requires_grad for tensor in batch]
            reject_wrong_derivative(loss_fn, variables, buffers, batch, wanted, traits, context)
        return InnerGradient(dict(zip(params, grads, strict=True)), found.loss, detached(found.buffers))


def _rehearse(grads: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Differentiate gradients once in advance, so that a missing second derivative is reported here."""
    outputs = [grad for grad in grads if grad.requires_grad]
    if outputs:
        torch.autograd.grad(
            outputs, sources, [torch.zeros_like(out) for out in outputs], retain_graph=True, allow_unused=True
        )
