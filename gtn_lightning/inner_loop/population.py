"""Trains several learners on the same batches."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.batches import RequestedBatches
from gtn_lightning.inner_loop.capture import is_recorded, note_obstacle
from gtn_lightning.inner_loop.functional import Owned, difference
from gtn_lightning.inner_loop.gradients import inner_gradient
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.segments import Lengths
from gtn_lightning.inner_loop.torch_internals import tree_map
from gtn_lightning.inner_loop.types import Batch, Buffers, LossFn, Params
from gtn_lightning.inner_loop.unroll import Snapshot, Unrolled, unroll


def unroll_population(
    loss_fn: LossFn | Sequence[LossFn],
    members: Sequence[tuple[Params, Buffers]],
    batches: Iterable[Batch],
    optimizer: InnerOptimizer,
    *,
    batched: bool | None = None,
    mode: str = "auto",
    window: tuple[int, int] | None = None,
    snapshots: Collection[int] = (),
    segment: Lengths = None,
    offload: str | None = None,
    checked: bool = True,
) -> list[Unrolled]:
    """Train several learners, each as ``unroll`` would, on batches that are made once.

    A population's meta-gradient has less noise than a single learner's, and the batches are made once. Batched members
    take a step as one operation, by ``vmap`` of the loss: the gradient of the summed loss is exact, while ``vmap`` of
    the gradient is not (torch 2.13 is wrong by some percent for affine norms).

    Args:
        loss_fn: the loss of one learner, as for ``unroll``; it must read parameters and buffers only from its
            arguments and be valid for every member. Or one for each member: these may differ in architecture, and are
            trained one after the other.
        members: initial parameters and buffers of each.
        batches: one batch per inner step, for all. In segments, `RequestedBatches` are made again if the members are
            batched, and kept if they are trained one after the other.
        optimizer: the inner optimizer.
        batched: whether members are trained as one operation, for elementwise optimizers only, or one after the other.
            None batches them on a GPU, where launching kernels takes most of the time, and on a CPU unless they have
            convolutions, which are slower there with different filters for every member
            (``benchmarks/population.py``).
        mode, window, snapshots, segment, offload, checked: as for ``unroll``.

    Returns:
        What ``unroll`` returns, for each member; if they are batched, ``losses`` is the mean over members.

    Raises:
        ValueError: if there are no members, if they share one loss although their learners differ in more than
            parameters and buffers, and as ``unroll``.

    Examples:
        >>> import torch
        >>> from gtn_lightning.inner_loop import SGD, Functional, unroll_population
        >>> networks = [Functional(torch.nn.Linear(3, 1)) for _ in range(4)]
        >>> def loss(params, buffers, inputs, targets):
        ...     outputs, buffers = networks[0](params, buffers, inputs)
        ...     return (outputs - targets).square().mean(), buffers
        >>> batches = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(5)]
        >>> members = [network.init() for network in networks]
        >>> trained = unroll_population(loss, members, batches, SGD(lr=0.1), mode="remat")
        >>> len(trained), trained[0].params["weight"].shape
        (4, torch.Size([1, 3]))
    """
    if not members:
        raise ValueError("a population needs at least one learner")
    if callable(loss_fn):
        _reject_different(members)
    shared = loss_fn if callable(loss_fn) else None
    losses = [loss_fn] * len(members) if callable(loss_fn) else loss_fn
    train = partial(
        unroll, mode=mode, window=window, snapshots=snapshots, segment=segment, offload=offload, checked=checked
    )
    if batched is None:
        parameters = members[0][0].values()
        on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
        slower = on_cpu and any(parameter.ndim > 2 for parameter in parameters)
        batched = optimizer.elementwise and bool(parameters) and not slower

    def one_by_one(batches: Iterable[Batch]) -> list[Unrolled]:
        if len(members) > 1:
            batches = list(islice(batches, None if window is None else window[1]))
        return [train(loss, *member, batches, optimizer) for loss, member in zip(losses, members, strict=True)]

    if shared is None or not batched or len(members) == 1:
        return one_by_one(batches)
    params, buffers = (_stacked([member[part] for member in members]) for part in range(2))
    summed = _summed(shared)
    first: list[Batch] = []
    if is_recorded():
        pass  # a rehearsal has shown that they can be batched
    elif segment is not None and isinstance(batches, RequestedBatches):
        with ReplayContext(next(iter(params.values())).device).restored(), torch.no_grad():
            first = list(batches.make(batches.requests[:1]))
    else:
        batches = iter(batches)
        first = list(islice(batches, 1))
        batches = chain(first, batches)
    if reason := _unbatchable(summed, params, buffers, first):
        note_obstacle("the population cannot be taught as one batch")
        warnings.warn(f"{reason}: the learners of the population are trained one after the other", stacklevel=2)
        return one_by_one(batches)
    together = train(summed, params, buffers, batches, optimizer)
    return [_member(together, number, len(members)) for number in range(len(members))]


def _reject_different(members: Sequence[tuple[Params, Buffers]]) -> None:
    owners = [params.owner for params, _ in members if isinstance(params, Owned)]
    for owner in owners[1:]:
        if name := difference(owners[0], owner):
            raise ValueError(
                f"the learners of the population differ in {name}, which is neither parameter nor buffer: "
                "all would be trained with the first one's; pass one loss per learner"
            )


def _unbatchable(summed: LossFn, params: Params, buffers: Buffers, first: Sequence[Batch]) -> str | None:
    """Return why learners cannot be trained as one operation, or None; found by computing one gradient."""
    if not first:
        return None
    try:
        with ReplayContext(next(iter(params.values())).device).restored(), torch.no_grad():
            inner_gradient(summed, params, buffers, first[0], "remat")
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # vmap's errors among them
        return f"torch cannot compute the learners' loss as one operation ({first_line(error)})"
    return None


def _stacked(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def _summed(loss_fn: LossFn) -> LossFn:
    def loss(params: Params, buffers: Buffers, *batch: Tensor) -> tuple[Tensor, Buffers]:
        # Not a function with annotations, which dynamo cannot evaluate.
        of_one = vmap(lambda params, buffers: loss_fn(params, buffers, *batch), randomness="different")
        losses, new_buffers = of_one(params, buffers)
        return losses.sum(), new_buffers

    return loss


def _member(together: Unrolled, number: int, members: int) -> Unrolled:
    def own(part: Any) -> Any:
        # Scalars of the optimizer's state are shared.
        return tree_map(lambda leaf: leaf[number] if isinstance(leaf, Tensor) and leaf.ndim else leaf, part)

    return Unrolled(
        own(together.params),
        own(together.buffers),
        together.losses / members,
        own(together.state),
        {step: Snapshot(own(params), own(buffers)) for step, (params, buffers) in together.snapshots.items()},
    )
