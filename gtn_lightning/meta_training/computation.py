"""What a meta-step computes on the device: from learners, requests and real data to the meta-loss."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from gtn_lightning.fields import chosen
from gtn_lightning.inner_loop import (
    Buffers,
    Functional,
    Params,
    RequestedBatches,
    difference,
    eager_loss,
    unroll_population,
)
from gtn_lightning.parts import Parts
from gtn_lightning.task import Taught
from gtn_lightning.teachers import TeacherInput

RealData = Callable[[Sequence[Taught]], Sequence[Sequence[Any]]]
"""Returns the real data of each taught learner."""


class Drawn(NamedTuple):
    """What the host draws for a meta-step."""

    networks: Sequence[nn.Module]
    """Fresh learners, on the CPU."""
    requests: list[TeacherInput]
    """The curriculum's requests, on the device."""
    tensors: list[tuple[Tensor, ...]]
    """What the teacher draws for each of them."""
    window: tuple[int, int]
    """The inner steps to differentiate through."""
    mode: str
    """How the inner gradient is differentiated."""


class Computation:
    """The device's part of a meta-step.

    Args:
        parts: the parts of a GTN.
        drawn: what the host has drawn; the networks are moved to the device.
        device: the device.
    """

    def __init__(self, parts: Parts, drawn: Drawn, device: torch.device) -> None:
        self.parts = parts
        self.drawn = drawn
        # Not attributes of a module, since DDP would wait for gradients of their parameters.
        self.learners = [Functional(network.to(device)) for network in drawn.networks]
        task, networks = parts.task, drawn.networks
        self._inner_losses = [task.inner_loss(learner) for learner in self.learners]
        self._are_one = parts.learners.one_architecture and are_one_function(networks)
        self._meta_losses = [task.meta_loss(learner) for learner in self.learners]

    def losses(
        self,
        members: Sequence[tuple[Params, Buffers]],
        requests: Sequence[TeacherInput],
        drawn: Sequence[Sequence[Tensor]],
        real: RealData,
    ) -> tuple[Tensor, Tensor]:
        """Teach the learners and return their meta-loss, with its graph, and their mean inner loss.

        Args:
            members: initial parameters and buffers of each learner.
            requests: the curriculum's requests.
            drawn: what the teacher has drawn for each of them.
            real: returns the real data of each taught learner.
        """
        parts, loop, window = self.parts, self.parts.inner_loop, self.drawn.window
        meta_steps = parts.task.meta_steps(window[1])
        taught = unroll_population(
            self._inner_losses[0] if self._are_one else self._inner_losses,
            members,
            RequestedBatches(
                list(zip(requests, drawn, strict=True)),
                partial(_batches, parts),
                [parameter for parameter in parts.teacher.parameters() if parameter.requires_grad],
            ),
            parts.inner_optimizer,
            mode=self.drawn.mode,
            window=window,
            snapshots=meta_steps,
            segment=loop.segment,
            offload=loop.offload,
            checked=loop.checked,
        )
        scored = [
            (meta_loss, Taught(learner, *unrolled.snapshots[step]))
            for learner, meta_loss, unrolled in zip(self.learners, self._meta_losses, taught, strict=True)
            for step in meta_steps
            if step > window[0]
        ]
        losses = [
            eager_loss(meta_loss, each.params, each.buffers, data, loop.mode)
            for (meta_loss, each), data in zip(scored, real([each for _, each in scored]), strict=True)
        ]
        by_learner = [part.mean() for part in torch.stack(losses).view(len(self.learners), -1)]
        loss = parts.learners.meta_loss(self.drawn.networks, torch.stack(by_learner))
        return loss, torch.stack([unrolled.losses[-1].detach() for unrolled in taught]).mean()


def are_one_function(learners: Sequence[nn.Module]) -> bool:
    """Return whether learners differ only in parameters and buffers, so that one loss function serves all."""
    return all(difference(learners[0], learner) is None for learner in learners[1:])


def _batches(parts: Parts, drawn: Sequence[tuple[TeacherInput, Sequence[Tensor]]]) -> Iterator[list[Tensor]]:
    requests, tensors = zip(*drawn, strict=True)
    batches, fields = iter(parts.teacher.batches_of(requests, tensors)), parts.task.fields
    while True:
        with record_function("teacher"):
            batch = next(batches, None)
        if batch is None:
            return
        yield chosen(batch, fields)
