"""A meta-step as one CUDA graph: teacher, inner loop, meta-losses and the backward pass of all of it.

The host samples the learners and makes the requests; then one replay computes the meta-loss and its gradient, which one
node of the autograd graph hands to Lightning. So DDP's hooks, clipping, accumulation and the recovery from non-finite
gradients see what they always see.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gtn_lightning.captures import filled, obstacle, pattern_of, settings, tensors_of
from gtn_lightning.inner_loop import Functional
from gtn_lightning.inner_loop.capture import is_recorded
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs, Results
from gtn_lightning.inner_loop.replay import AutocastState
from gtn_lightning.inner_loop.torch_internals import has_gradient_hook, with_tensors
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.meta_training.computation import Computation, Drawn
from gtn_lightning.parts import Parts
from gtn_lightning.task import Task

WHAT = "a meta-step"
"""What is captured, in warnings."""


def captured_losses(parts: Parts, drawn: Drawn, batch: Any, graphs: CudaGraphs) -> tuple[Tensor, Tensor] | None:
    """Return the meta-loss of a meta-step, differentiable, and the inner loss, computed by a CUDA graph.

    The first meta-steps of an architecture, and those that no graph can hold, are computed as usual.

    Args:
        parts: the parts of a GTN.
        drawn: what the host has drawn.
        batch: a batch of real data.
        graphs: captures and replays.

    Returns:
        The losses, or None if no meta-step of these parts can be captured.
    """
    real = (batch,) if isinstance(batch, Tensor) else batch
    if reason := _obstacle(parts, real, graphs.device):
        graphs.say(WHAT, reason)
        return None
    modules = [parts.teacher, parts.inner_optimizer]
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    members = [Functional(network).init() for network in drawn.networks]
    given = [tensor for member in members for part in member for tensor in part.values()]
    given += [*tensors_of(drawn.requests), *chain.from_iterable(drawn.tensors), *real]
    differentiable = torch.is_grad_enabled()
    noise = [r.noise for r in drawn.requests if differentiable and r.noise is not None and r.noise.requires_grad]

    def prepare() -> Any:
        computation = Computation(parts, drawn, graphs.device)

        def function(tensors: Sequence[Tensor]) -> Results:
            rest = iter(tensors)
            own = [({n: next(rest) for n in params}, {n: next(rest) for n in buffers}) for params, buffers in members]
            requests = filled(drawn.requests, rest)
            random = [tuple(next(rest) for _ in each) for each in drawn.tensors]
            data = list(rest)
            # Without the cache of autocast, whose copies of parameters would outlive the capture.
            with AutocastState.current(graphs.device).context(), _parameters(modules) as sources:
                if differentiable:
                    sources += [r.noise for r in requests if r.noise is not None and r.noise.requires_grad]
                loss, inner_loss = computation.losses(own, requests, random, lambda taught: [data] * len(taught))
                gradient = torch.autograd.grad(loss, sources, allow_unused=True) if differentiable else ()
            return [loss.detach(), inner_loss, *gradient]

        return function

    key = (
        drawn.window,
        drawn.mode,
        differentiable,
        AutocastState.current(graphs.device),
        tuple(tuple(part) for member in members for part in member),
        pattern_of(drawn.requests),
        tuple(map(len, drawn.tensors)),
        *(settings(part) for part in (*modules, parts.task)),
    )
    loss, inner_loss, *gradient = graphs.run(WHAT, key, drawn.networks, given, prepare)
    assert loss is not None
    assert inner_loss is not None
    # Without gradients there is none to hand on.
    pairs = [(part, source) for part, source in zip(gradient, [*parameters, *noise], strict=False) if part is not None]
    if pairs:
        loss = _Loss.apply(loss, [part for part, _ in pairs], *(source for _, source in pairs))
    return loss, inner_loss


class _Loss(torch.autograd.Function):
    """A loss with a gradient that has been computed with it: ``(loss, gradient, sources) -> loss``."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: Sequence[Tensor], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradient)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(cotangent * part for part in ctx.saved_tensors))


@contextmanager
def _parameters(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield the parameters to differentiate by; recorded, the modules hold other leaves with the same memory.

    A parameter's own leaf belongs to the stream in which Lightning or DDP has met it first, which is not that of the
    capture.
    """
    with ExitStack() as stack:
        leaves: list[Tensor] = []
        for module in modules:
            own = {name: p for name, p in module.named_parameters() if p.requires_grad}
            if is_recorded():
                own = {name: nn.Parameter(p.detach()) for name, p in own.items()}
                stack.enter_context(with_tensors(module, dict(own)))
            leaves += own.values()
        yield leaves


def _obstacle(parts: Parts, real: Any, device: torch.device) -> str | None:
    """Return why no meta-step of these parts can be captured, the end of a sentence, or None."""
    if getattr(parts.task.experience, "__func__", None) is not Task.experience:
        return f"the task {type(parts.task).__name__} makes the real data from the taught learners"
    if getattr(parts.learners.meta_loss, "__func__", None) is not LearnerDistribution.meta_loss:
        return f"the learners {type(parts.learners).__name__} have a meta-loss of their own"
    if parts.inner_loop.offload:
        return "inner_loop.offload keeps states outside of the GPU"
    if not isinstance(real, Sequence) or not all(isinstance(tensor, Tensor) for tensor in real):
        return "the real data is not a sequence of tensors"
    modules = {"teacher": parts.teacher, "inner_optimizer": parts.inner_optimizer}
    for name, module in modules.items():
        for place, parameter in module.named_parameters(prefix=name):
            if has_gradient_hook(parameter):
                return f"the parameter {place} has a gradient hook"
    return obstacle(device, **modules)
