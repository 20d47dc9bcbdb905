"""One meta-step: sample learners, teach them, compute their meta-loss."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from gtn_lightning.fields import chosen
from gtn_lightning.inner_loop import Functional, InnerLoop, difference, eager_loss, unroll_population
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.task import Taught
from gtn_lightning.teachers import TeacherInput

WORTH_COMPILING = 5000
"""Number of inner steps in which mode ``fused`` saves about the time that its compilation takes."""

Experience = dict[tuple[int, int, int], Sequence[Sequence[Any]]]
"""The real data of the learners of a meta-step, by the place that `meta_step` is called with."""


def meta_step(
    parts: Parts,
    population: int,
    batch: Sequence[Any],
    place: tuple[int, int, int],
    device: torch.device,
    kept: Experience | None = None,
    mode: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample fresh learners, teach them on the teacher's data, and compute their loss on real data.

    Args:
        parts: the parts of a GTN.
        population: number of learners.
        batch: a batch of real data.
        place: number of the learners in the meta-step, by default the process's rank, number of the meta-step and
            number of the batch: the key of all random numbers.
        device: device of the learners.
        kept: the experience of earlier calls, which is used again for the same place; a new one is added.
        mode: the mode of the inner loop, if it is not that of the parts.

    Returns:
        The meta-loss, a scalar with its graph, and the mean inner loss of the last inner step, a scalar without graph.
    """
    generator, loop = keyed_generator(parts.seed, "train", *place), parts.inner_loop
    with keyed_rng(parts.seed, "train", *place, device=device):
        # Not attributes of a module, since DDP would wait for gradients of their parameters. Made on the CPU with a CPU
        # generator, so that a seed gives the same learners on every device.
        with record_function("learner"):
            networks = parts.learners.population(generator, population)
            learners = [Functional(network.to(device)) for network in networks]
        # Keyed without the rank: the same window on all processes.
        window = loop.window(keyed_generator(parts.seed, "window", *place[1:]))
        meta_steps = parts.task.meta_steps(window[1])
        inner_losses = [parts.task.inner_loss(learner) for learner in learners]
        taught = unroll_population(
            inner_losses[0] if parts.learners.one_architecture and are_one_function(networks) else inner_losses,
            [learner.init() for learner in learners],
            _batches(parts, parts.curriculum.requests(generator, device)),
            parts.inner_optimizer,
            mode=mode or loop.mode,
            window=window,
            snapshots=meta_steps,
            segment=loop.segment,
            offload=loop.offload,
            checked=loop.checked,
        )
        scored = [
            Taught(learner, *unrolled.snapshots[step])
            for learner, unrolled in zip(learners, taught, strict=True)
            for step in meta_steps
            if step > window[0]
        ]
        experience = None if kept is None else kept.get(place)
        if experience is None:
            with record_function("experience"), torch.no_grad():
                experience = parts.task.experience(scored, batch, generator, training=True)
            if kept is not None:
                kept[place] = experience
        losses = [
            eager_loss(parts.task.meta_loss(each.learner), each.params, each.buffers, real, loop.mode)
            for each, real in zip(scored, experience, strict=True)
        ]
        by_learner = [part.mean() for part in torch.stack(losses).view(len(learners), -1)]
        loss = parts.learners.meta_loss(networks, torch.stack(by_learner))
    return loss, torch.stack([unrolled.losses[-1].detach() for unrolled in taught]).mean()


def mode_of(loop: InnerLoop, meta_steps: int) -> str:
    """Return the mode of a run's inner loops.

    A run that is too short to gain from compilation never pays for mode ``fused``. The planned number of steps decides,
    not a measured time: processes and resumed runs have the same bits.

    Args:
        loop: how inner loops are run.
        meta_steps: planned number of meta-steps, -1 if it is not known.
    """
    too_short = 0 <= meta_steps * loop.steps < WORTH_COMPILING
    return "remat" if loop.mode == "fused" and too_short else loop.mode


def are_one_function(learners: Sequence[nn.Module]) -> bool:
    """Return whether learners differ only in parameters and buffers, so that one loss function serves all."""
    return all(difference(learners[0], learner) is None for learner in learners[1:])


def _batches(parts: Parts, requests: list[TeacherInput]) -> Iterator[list[Tensor]]:
    batches, fields = iter(parts.teacher.batches(requests)), parts.task.fields
    while True:
        with record_function("teacher"):
            batch = next(batches, None)
        if batch is None:
            return
        yield chosen(batch, fields)
