"""One meta-step: sample learners, teach them, compute their meta-loss."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from gtn_lightning.inner_loop import InnerLoop
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs
from gtn_lightning.meta_training.ahead import Ahead, Place
from gtn_lightning.meta_training.captured import captured_losses
from gtn_lightning.meta_training.computation import Computation, Drawn
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator, keyed_rng
from gtn_lightning.task import Taught

WORTH_COMPILING = 5000
"""Number of inner steps of an architecture in which mode ``fused`` saves about the time that its compilation takes."""

Experience = dict[Place, Sequence[Sequence[Any]]]
"""The real data of the learners of a meta-step, by the place that `meta_step` is called with."""


def meta_step(
    parts: Parts,
    population: int,
    batch: Sequence[Any],
    place: Place,
    device: torch.device,
    kept: Experience | None = None,
    graphs: CudaGraphs | None = None,
    ahead: Ahead | None = None,
    following: Place | None = None,
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
        graphs: captures the computation and replays it, if possible; None computes it as usual.
        ahead: holds learners that have been sampled in advance.
        following: the place of the next call, for which learners are sampled while a GPU computes; None if unknown.
        mode: the mode of the inner loop, if it is not that of the parts.

    Returns:
        The meta-loss, a scalar with its graph, and the mean inner loss of the last inner step, a scalar without graph.
    """
    generator = keyed_generator(parts.seed, "train", *place)
    with keyed_rng(parts.seed, "train", *place, device=device):
        # Made on the CPU with a CPU generator, so that a seed gives the same learners on every device.
        with record_function("learner"):
            networks = None if ahead is None else ahead.take(parts.learners, place, generator)
            if networks is None:
                networks = parts.learners.population(generator, population)
        # Keyed without the rank: the same window on all processes.
        window = parts.inner_loop.window(keyed_generator(parts.seed, "window", *place[1:]))
        requests = parts.curriculum.requests(generator, device)
        drawn = Drawn(networks, requests, parts.teacher.draw(requests), window, mode or parts.inner_loop.mode)
        if graphs is not None and (found := captured_losses(parts, drawn, batch, graphs)) is not None:
            if ahead is not None and following is not None:
                ahead.sample(parts, population, following)
            return found

        def real(taught: Sequence[Taught]) -> Sequence[Sequence[Any]]:
            experience = None if kept is None else kept.get(place)
            if experience is None:
                with record_function("experience"), torch.no_grad():
                    experience = parts.task.experience(taught, batch, generator, training=True)
                if kept is not None:
                    kept[place] = experience
            return experience

        computation = Computation(parts, drawn, device)
        members = [learner.init() for learner in computation.learners]
        return computation.losses(members, drawn.requests, drawn.tensors, real)


def mode_of(loop: InnerLoop, architectures: int | None, meta_steps: int) -> str:
    """Return the mode of a run's inner loops.

    A run that is too short to gain from compilation never pays for mode ``fused``, nor do learners of many
    architectures. The planned number of steps decides, not a measured time: processes and resumed runs have the same
    bits.

    Args:
        loop: how inner loops are run.
        architectures: number of architectures of the learners, None for many.
        meta_steps: planned number of meta-steps, -1 if it is not known.
    """
    if loop.mode != "fused":
        return loop.mode
    planned = float("inf") if meta_steps < 0 else meta_steps * loop.steps
    return "remat" if architectures is None or planned < WORTH_COMPILING * architectures else "fused"
