"""Mode ``reverse``: ordinary double backward.

The gradient is computed with its graph, which holds all activations until the meta-gradient is there. The
oracle of the tests, and the fastest where the inner loop is tiny.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gtn_lightning.inner_loop.loss import evaluated
from gtn_lightning.inner_loop.modes.base import Mode, dense
from gtn_lightning.inner_loop.modes.rejection import reject_wrong_derivative
from gtn_lightning.inner_loop.modes.remat import Remat
from gtn_lightning.inner_loop.operators import named_operator, reject_silently_wrong
from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn, detached, is_continuous


class Reverse(Mode):
    """Keep the graph of the gradient.

    Not of a learner that checkpoints its activations: its graph holds for as long as the learner has its parameters in
    place, so that it is taught in mode ``remat``.
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
        surroundings = Surroundings(next(iter(params.values())).device, foreign=due or traits.foreign)
        # Where the loss is watched, the batch is a variable too: stops between it and the loss are to be seen.
        inputs = [
            tensor.detach().requires_grad_() if due and is_continuous(tensor) and not tensor.requires_grad else tensor
            for tensor in batch
        ]
        with (
            surroundings.watched(),
            evaluated(loss_fn, variables, buffers, inputs, traits, surroundings, closed=False) as found,
        ):
            if not traits.checkpoints:
                reject_silently_wrong(found.graph)
                with named_operator():
                    given = torch.autograd.grad(
                        found.loss, list(variables.values()), create_graph=True, allow_unused=True
                    )
                    # Zeros that torch itself puts in place of missing gradients would be leaves that require grad.
                    grads = [
                        torch.zeros_like(variable) if grad is None else dense(grad)
                        for variable, grad in zip(variables.values(), given, strict=True)
                    ]
                    if due:
                        _rehearse(grads, [*variables.values(), *(t for t in batch if t.requires_grad)])
        if due:
            traits.foreign |= surroundings.drew_foreign
        if traits.checkpoints:
            with surroundings.again():
                return self._fallback.differentiable(loss_fn, params, buffers, batch, checked)
        if checked:
            wanted = [tensor.requires_grad for tensor in batch]
            reject_wrong_derivative(loss_fn, variables, buffers, batch, wanted, traits, surroundings)
        return InnerGradient(dict(zip(params, grads, strict=True)), found.loss, detached(found.buffers))


def _rehearse(grads: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Differentiate gradients for nothing, so that an operator without a second derivative is named in time."""
    outputs = [grad for grad in grads if grad.requires_grad]
    if outputs:
        torch.autograd.grad(
            outputs, sources, [torch.zeros_like(out) for out in outputs], retain_graph=True, allow_unused=True
        )
