"""Several learners taught on the same batches."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.functional import Owned, difference
from gtn_lightning.inner_loop.gradients import inner_gradient
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.replay import Surroundings
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
    segment: int | None = None,
    offload: bool = False,
    checked: bool = True,
) -> list[Unrolled]:
    """Train several learners, each as ``unroll`` would, on batches that are made once.

    A population's meta-gradient has less noise than a single learner's, and the teacher's work is shared. Batched, all
    members take a step as one operation, by ``vmap`` of the loss: the gradient of the summed loss is exact, where
    ``vmap`` of the gradient is not (torch 2.13 gets affine norms wrong by some percent).

    Args:
        loss_fn: the loss of one learner, as for ``unroll``; it must read parameters and buffers from its arguments
            alone, and hold for every member. Or one for each member: those may differ in architecture, and are taught
            one after the other.
        members: initial parameters and buffers of each.
        batches: one batch per inner step, for all.
        optimizer: the inner optimizer.
        batched: whether members are taught as one operation or one after the other; the former for optimizers alone
            that are elementwise. None decides: on a GPU, whose time goes into starting kernels, members are batched
            where they may be; on a CPU, where convolutions with filters of their own for every member are slower
            (``benchmarks/population.py``), they are not.
        mode, window, snapshots, segment, offload, checked: as for ``unroll``.

    Returns:
        what ``unroll`` returns, for each member; where they are batched, ``losses`` is the mean over members.

    Raises:
        ValueError: if there are no members, if they are given one loss though their learners differ in something else
            than parameters and buffers, and as ``unroll``.
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
        parameter = next(iter(members[0][0].values()), torch.empty(0))
        batched = parameter.device.type != "cpu" and optimizer.elementwise

    def one_by_one(batches: Iterable[Batch]) -> list[Unrolled]:
        if len(members) > 1:
            batches = list(islice(batches, None if window is None else window[1]))
        return [train(loss, *member, batches, optimizer) for loss, member in zip(losses, members, strict=True)]

    if shared is None or not batched or len(members) == 1:
        return one_by_one(batches)
    params, buffers = (_stacked([member[part] for member in members]) for part in range(2))
    batches = iter(batches)
    first = list(islice(batches, 1))
    summed = _summed(shared)
    if reason := _unbatchable(summed, params, buffers, first):
        warnings.warn(f"{reason}: the learners of the population are taught one after the other", stacklevel=2)
        return one_by_one(chain(first, batches))
    together = train(summed, params, buffers, chain(first, batches), optimizer)
    return [_member(together, number, len(members)) for number in range(len(members))]


def _reject_different(members: Sequence[tuple[Params, Buffers]]) -> None:
    owners = [params.owner for params, _ in members if isinstance(params, Owned)]
    for owner in owners[1:]:
        if name := difference(owners[0], owner):
            raise ValueError(
                f"the learners of the population differ in {name}, which is neither parameter nor buffer: they would "
                "all be taught with the first one's; give a loss for each"
            )


def _unbatchable(summed: LossFn, params: Params, buffers: Buffers, first: Sequence[Batch]) -> str | None:
    """Return why learners cannot be taught as one operation, or None; found by computing one gradient."""
    if not first:
        return None
    try:
        with Surroundings(next(iter(params.values())).device).again(), torch.no_grad():
            inner_gradient(summed, params, buffers, first[0], "remat")
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # among which are vmap's
        return f"torch cannot compute the learners' loss as one operation ({first_line(error)})"
    return None


def _stacked(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def _summed(loss_fn: LossFn) -> LossFn:
    def loss(params: Params, buffers: Buffers, *batch: Tensor) -> tuple[Tensor, Buffers]:
        def of_one(params: Params, buffers: Buffers) -> tuple[Tensor, Buffers]:
            return loss_fn(params, buffers, *batch)

        losses, new_buffers = vmap(of_one, randomness="different")(params, buffers)
        return losses.sum(), new_buffers

    return loss


def _member(together: Unrolled, number: int, members: int) -> Unrolled:
    def own(part: Any) -> Any:
        # Scalars of the optimizer's state are the same for all.
        return tree_map(lambda leaf: leaf[number] if isinstance(leaf, Tensor) and leaf.ndim else leaf, part)

    return Unrolled(
        own(together.params),
        own(together.buffers),
        together.losses / members,
        own(together.state),
        {step: Snapshot(own(params), own(buffers)) for step, (params, buffers) in together.snapshots.items()},
    )
