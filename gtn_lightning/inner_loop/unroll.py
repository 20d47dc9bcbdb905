"""T inner steps as one differentiable function."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtn_lightning.inner_loop.gradients import inner_gradient
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.types import Batch, Buffers, LossFn, Params


class Snapshot(NamedTuple):
    """A learner at some point of the inner loop."""

    params: Params
    """Parameters by name."""
    buffers: Buffers
    """Buffers by name."""


class Unrolled(NamedTuple):
    """The result of an inner loop."""

    params: Params
    """The trained parameters, differentiable."""
    buffers: Buffers
    """The buffers after the last step."""
    losses: Tensor
    """The inner loss before each step, shape ``[steps]``."""
    state: Any
    """The optimizer's state after the last step."""
    snapshots: dict[int, Snapshot]
    """The learner after the requested numbers of steps, differentiable."""


def unroll(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batches: Iterable[Batch],
    optimizer: InnerOptimizer,
    *,
    mode: str = "auto",
    window: tuple[int, int] | None = None,
    snapshots: Collection[int] = (),
) -> Unrolled:
    """Train a learner for a few steps as one differentiable function.

    The trained parameters are differentiable w.r.t. the initial ones, the batches and the optimizer's
    learned hyperparameters. Under ``torch.no_grad`` the same training runs without any graph.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
        params: the learner's initial parameters.
        buffers: the learner's initial buffers.
        batches: one batch per inner step, each a tuple of tensors. It is consumed lazily, so a generator may
            make every batch when its step comes.
        optimizer: the inner optimizer.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``.
        window: ``(first, last)``: steps before ``first`` run without a graph, and training ends before step
            ``last``. ``(T - K, T)`` is truncation to the last K steps; a random ``last`` gives RaT-BPTT
            (Feng et al., arXiv 2311.06152). None differentiates through all of the batches.
        snapshots: numbers of steps (0 = untrained) after which the learner is recorded as well.

    Returns:
        Trained parameters, buffers, per-step losses, optimizer state, and the snapshots.

    Raises:
        ValueError: if there is no batch, fewer batches than the window or a snapshot wants, or an invalid
            window.
    """
    first, last = window if window is not None else (0, None)
    if first < 0 or (last is not None and last <= first):
        raise ValueError(f"the window ({first}, {last}) is empty: expected 0 <= first < last")
    differentiable = torch.is_grad_enabled()
    state = optimizer.init(dict(params))
    current = Snapshot(dict(params), dict(buffers))
    recorded = {0: current} if 0 in snapshots else {}
    losses: list[Tensor] = []
    iterator = iter(batches)
    while last is None or len(losses) < last:
        step = len(losses)
        # With grad: a generator may make something for all steps when it is asked for the first, such as a gather.
        batch = next(iterator, None)
        if batch is None:
            break
        with torch.set_grad_enabled(differentiable and step >= first):
            gradient = inner_gradient(loss_fn, current.params, current.buffers, batch, mode)
            new_params, state = optimizer.update(gradient.grads, state, current.params, step)
            current = Snapshot(new_params, gradient.buffers)
        losses.append(gradient.loss)
        if step + 1 in snapshots:
            recorded[step + 1] = current
    needed = max([1, *snapshots] if last is None else [last, *snapshots])
    if len(losses) < needed:
        raise ValueError(f"the inner loop needs at least {needed} steps but there were batches for {len(losses)}")
    return Unrolled(current.params, current.buffers, torch.stack(losses), state, recorded)
