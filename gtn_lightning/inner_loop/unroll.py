"""T inner steps as one differentiable function."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gtn_lightning.inner_loop.gradients import inner_gradient, mode_named, reject_no_parameters
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.segments import rematerialize
from gtn_lightning.inner_loop.types import Batch, Buffers, LossFn, Params, detached


class Snapshot(NamedTuple):
    """A learner after some inner steps."""

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


class InnerState(NamedTuple):
    """The state of an inner loop."""

    params: Params
    """Parameters by name."""
    buffers: Buffers
    """Buffers by name."""
    state: Any
    """The optimizer's state."""


def inner_step(
    loss_fn: LossFn,
    at: InnerState,
    batch: Batch,
    optimizer: InnerOptimizer,
    step: int,
    mode: str = "auto",
    checked: bool = True,
) -> tuple[InnerState, Tensor]:
    """Take one inner step, differentiably.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
        at: the state of the inner loop before the step.
        batch: the step's batch, a tuple of tensors.
        optimizer: the inner optimizer.
        step: which inner step this is, counted from zero.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``.
        checked: whether to raise if a loss is found to be differentiated wrongly, see `inner_gradient`.

    Returns:
        The state after the step, and the loss before the step, a scalar.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import SGD, Functional, InnerState, inner_step
        >>> network = Functional(torch.nn.Linear(3, 2))
        >>> def loss(params, buffers, inputs, targets):
        ...     outputs, buffers = network(params, buffers, inputs)
        ...     return F.cross_entropy(outputs, targets), buffers
        >>> optimizer = SGD(lr=0.1)
        >>> params, buffers = network.init()
        >>> state = InnerState(params, buffers, optimizer.init(params))
        >>> batch = torch.randn(8, 3), torch.arange(8) % 2
        >>> state, value = inner_step(loss, state, batch, optimizer, step=0, mode="remat")
        >>> sorted(state.params), value.shape
        (['bias', 'weight'], torch.Size([]))
    """
    gradient = inner_gradient(loss_fn, at.params, at.buffers, batch, mode, checked)
    with record_function("inner optimizer"):
        params, state = optimizer.update(gradient.grads, at.state, at.params, step)
    return InnerState(params, gradient.buffers, state), gradient.loss


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
    segment: int | None = None,
    offload: bool = False,
    checked: bool = True,
) -> Unrolled:
    """Train a learner for a few steps as one differentiable function.

    The trained parameters are differentiable w.r.t. the initial ones, the batches and the optimizer's
    learned hyperparameters. Under ``torch.no_grad`` the same training runs without any graph.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
        params: the learner's initial parameters.
        buffers: the learner's initial buffers.
        batches: one batch per inner step, each a tuple of tensors. It is consumed lazily, so a generator
            may make each batch when it is needed.
        optimizer: the inner optimizer.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``.
        window: ``(first, last)``: steps before ``first`` run without a graph, and training ends before step
            ``last``. ``(T - K, T)`` is truncation to the last K steps; a random ``last`` gives RaT-BPTT
            (Feng et al., arXiv 2311.07025). None differentiates through all of the batches.
        snapshots: numbers of steps (0 = untrained) after which to record the learner.
        segment: number of steps after which the learner's state is kept; the steps between are recomputed in the
            backward pass. With about the square root of T, memory grows with that root, and T more inner gradients are
            computed. Segments also end at snapshots. None keeps the state after each step.
        offload: whether to keep the states of segments in the host's memory until the backward pass.
        checked: whether to raise if a loss is found to be differentiated wrongly, see `inner_gradient`.

    Returns:
        Trained parameters, buffers, per-step losses, optimizer state, and the snapshots.

    Raises:
        ValueError: if there is no parameter, no batch, fewer batches than the window or a snapshot needs, or an invalid
            window or segment.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import SGD, Functional, unroll
        >>> network = Functional(torch.nn.Linear(3, 2))
        >>> def loss(params, buffers, inputs, targets):
        ...     outputs, buffers = network(params, buffers, inputs)
        ...     return F.cross_entropy(outputs, targets), buffers
        >>> images = torch.randn(5, 8, 3, requires_grad=True)  # five inner steps of eight samples
        >>> batches = [(batch, torch.arange(8) % 2) for batch in images]
        >>> optimizer = SGD(lr=0.1, learned=["lr"])
        >>> trained = unroll(loss, *network.init(), batches, optimizer, mode="remat")
        >>> trained.losses.shape
        torch.Size([5])
        >>> meta_loss, _ = loss(trained.params, trained.buffers, torch.randn(9, 3), torch.arange(9) % 2)
        >>> meta_loss.backward()
        >>> images.grad.shape, optimizer.logs["lr"].grad is not None
        (torch.Size([5, 8, 3]), True)
    """
    first, last = window if window is not None else (0, None)
    if first < 0 or (last is not None and last <= first):
        raise ValueError(f"the window ({first}, {last}) is empty: it must satisfy 0 <= first < last")
    if segment is not None and segment < 1:
        raise ValueError(f"segment must be at least 1, got {segment}")
    if offload and segment is None:
        raise ValueError("offload needs segment, the number of steps between kept states")
    reject_no_parameters(params)
    differentiable = torch.is_grad_enabled()
    learned = [parameter for parameter in optimizer.parameters() if parameter.requires_grad]
    at = InnerState(dict(params), dict(buffers), optimizer.init(dict(params)))
    together = None
    if differentiable and segment is None:
        together = mode_named(mode).together(loss_fn, optimizer, next(iter(params.values())).device, checked)
    recorded = {0: Snapshot(at.params, at.buffers)} if 0 in snapshots else {}
    losses: list[Tensor] = []
    done = 0
    iterator = iter(batches)

    def advance(start: int, given: tuple[InnerState, list[Batch]]) -> tuple[InnerState, list[Tensor]]:
        at, batches = given
        losses = []
        for step, batch in enumerate(batches, start):
            at, loss = inner_step(loss_fn, at, batch, optimizer, step, mode, checked)
            losses.append(loss)
        return at, losses

    while last is None or done < last:
        step = done
        with_graph = differentiable and step >= first
        # Segments end at snapshots and at the end of the window.
        ends = [end - step for end in (*snapshots, last) if end is not None and end > step]
        # Steps that are taken together need all their batches; None takes what is left.
        alone = None if together is not None else segment or 1
        size = min((end for end in (alone, *ends) if end is not None), default=None) if with_graph else 1
        # With grad: a generator may compute something for all steps at its first batch.
        chunk = list(islice(iterator, size))
        if not chunk:
            break
        with torch.set_grad_enabled(with_graph):
            if with_graph and segment is not None:
                device = next(iter(at.params.values())).device
                # Variables, so that no step creates its own: these would count as captured tensors.
                variables = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in at.params.items()}
                at = at._replace(params=variables)
                at, found = rematerialize(partial(advance, step), (at, chunk), learned, device, offload, checked)
                at = at._replace(buffers=detached(at.buffers))
            elif with_graph and together is not None and (taken := together.take(*at, chunk, step)):
                *after, values = taken
                at, found = InnerState(*after), [values]
            else:
                at, found = advance(step, (at, chunk))
            losses += [loss if loss.ndim else loss[None] for loss in found]
        done += len(chunk)
        if done in snapshots:
            recorded[done] = Snapshot(at.params, at.buffers)
    needed = max([1, *snapshots] if last is None else [last, *snapshots])
    if done < needed:
        raise ValueError(f"the inner loop needs at least {needed} steps but there were batches for {done}")
    return Unrolled(at.params, at.buffers, torch.cat(losses), at.state, recorded)
