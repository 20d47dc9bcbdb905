"""T inner steps as one differentiable function."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gtn_lightning.inner_loop.batches import RequestedBatches
from gtn_lightning.inner_loop.gradients import inner_gradient, mode_named, reject_no_parameters
from gtn_lightning.inner_loop.offload import Offload, check_offload
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.segments import Lengths, rematerialize, segment_lengths
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
    segment: Lengths = None,
    offload: str | None = None,
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
            may make each batch when it is needed. With segments, all batches are kept until the backward pass, unless
            they are `RequestedBatches`, which are made again.
        optimizer: the inner optimizer.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``.
        window: ``(first, last)``: steps before ``first`` run without a graph, and training ends before step
            ``last``. ``(T - K, T)`` is truncation to the last K steps; a random ``last`` gives RaT-BPTT
            (Feng et al., arXiv 2311.07025). None differentiates through all of the batches.
        snapshots: numbers of steps (0 = untrained) after which to record the learner.
        segment: number of steps after which the learner's state is kept; the steps between are recomputed in the
            backward pass. With about the square root of T, memory grows with that root, and T more inner gradients are
            computed. Several numbers are nested segments, the outermost first: with L of them, each about
            T^(1/(L+1)) times smaller than the one before, (L+1) T^(1/(L+1)) states are kept at once, and L T more
            inner gradients are computed. Segments also end at snapshots. None keeps the state after each step.
        offload: where to keep the states of segments until the backward pass: ``host``, its memory; ``disk``,
            temporary files, in ``TMPDIR`` if it is set; None for the device.
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
    lengths = segment_lengths(segment, "segment")
    check_offload(offload, "offload")
    if offload is not None and not lengths:
        raise ValueError("offload needs segment, the number of steps between kept states")
    reject_no_parameters(params)
    differentiable = torch.is_grad_enabled()
    requested = batches if lengths and isinstance(batches, RequestedBatches) else None
    loop = _Loop(loss_fn, optimizer, mode, checked, requested, None if offload is None else Offload(offload))
    at = InnerState(dict(params), dict(buffers), optimizer.init(dict(params)))
    together = None
    if differentiable and not lengths:
        together = mode_named(mode).together(loss_fn, optimizer, next(iter(params.values())).device, checked)
    recorded = {0: Snapshot(at.params, at.buffers)} if 0 in snapshots else {}
    losses: list[Tensor] = []
    iterator: Iterator[Any] = iter(batches if requested is None else requested.requests)
    while last is None or len(losses) < last:
        step = len(losses)
        with_graph = differentiable and step >= first
        # Segments end at snapshots and at the ends of the window.
        ends = [end - step for end in (*snapshots, first, last) if end is not None and end > step]
        size: int | None = 1
        if lengths and (with_graph or requested is not None):
            size = min([*lengths[:1], *ends])
        elif with_graph and together is not None:
            size = min(ends, default=None)  # steps that are taken together need all their batches
        # With grad: a generator may compute something for all steps at its first batch.
        chunk = list(islice(iterator, size))
        if not chunk:
            break
        with torch.set_grad_enabled(with_graph):
            taken = together.take(*at, chunk, step) if with_graph and together is not None else None
            if taken is None:
                at, found = loop.advance(step, lengths, at, chunk)
            else:
                *after, values = taken
                at, found = InnerState(*after), list(values.unbind())
        losses += found
        if len(losses) in snapshots:
            recorded[len(losses)] = Snapshot(at.params, at.buffers)
    needed = max([1, *snapshots] if last is None else [last, *snapshots])
    if len(losses) < needed:
        raise ValueError(f"the inner loop needs at least {needed} steps but there were batches for {len(losses)}")
    return Unrolled(at.params, at.buffers, torch.stack(losses), at.state, recorded)


class _Loop:
    """The steps of an inner loop, in segments or not."""

    def __init__(
        self,
        loss_fn: LossFn,
        optimizer: InnerOptimizer,
        mode: str,
        checked: bool,
        requested: RequestedBatches | None,
        offload: Offload | None,
    ) -> None:
        self._step = partial(inner_step, loss_fn, optimizer=optimizer, mode=mode, checked=checked)
        self._make = iter if requested is None else requested.make
        leaves = (*optimizer.parameters(), *(() if requested is None else requested.parameters))
        self._learned = [leaf for leaf in leaves if leaf.requires_grad]
        self._offload = offload
        self._checked = checked

    def advance(
        self, start: int, lengths: tuple[int, ...], at: InnerState, batches: Sequence[Any]
    ) -> tuple[InnerState, list[Tensor]]:
        """Take steps on batches, or on requests for them, in nested segments of the given lengths.

        Returns:
            The state after the last step, and the loss before each.
        """
        losses: list[Tensor] = []
        if not lengths:
            for step, batch in enumerate(self._make(batches), start):
                at, loss = self._step(at=at, batch=batch, step=step)
                losses.append(loss)
            if len(losses) != len(batches):
                raise ValueError(f"RequestedBatches.make made {len(losses)} batches of {len(batches)} requests")
            return at, losses
        device = next(iter(at.params.values())).device
        for offset in range(0, len(batches), lengths[0]):
            # Without grad, batches are made in the same portions, so that they draw the same random numbers.
            steps = partial(self.advance, start + offset, lengths[1:])
            part = batches[offset : offset + lengths[0]]
            if torch.is_grad_enabled():
                # Variables, so that no step creates its own: these would count as captured tensors.
                variables = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in at.params.items()}
                at = at._replace(params=variables)
                at, found = rematerialize(steps, at, part, self._learned, device, self._offload, self._checked)
                at = at._replace(buffers=detached(at.buffers))
            else:
                at, found = steps(at, part)
            losses += found
        return at, losses
