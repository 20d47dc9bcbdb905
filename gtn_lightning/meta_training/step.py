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

COMPILE_AFTER = 1000
"""Number of inner steps, for each architecture, that a run takes before mode ``fused`` compiles them."""

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
        mode = mode_at(parts.inner_loop, parts.learners.architectures, place[1])
        drawn = Drawn(networks, requests, parts.teacher.draw(requests), window, mode)
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


def mode_at(loop: InnerLoop, architectures: int | None, meta_step: int) -> str:
    """Return the mode of an inner loop in a meta-step.

    Compiling an architecture for mode ``fused`` takes as long as a thousand inner steps, so a run that is too short to
    gain from it never pays for it, nor do learners of many architectures. A number of steps decides, not a time:
    processes and resumed runs have the same bits.

    Args:
        loop: how inner loops are run.
        architectures: number of architectures of the learners, None for many.
        meta_step: number of the meta-step, counted from zero.
    """
    if loop.mode != "fused":
        return loop.mode
    compiles = architectures is not None and meta_step * loop.steps >= COMPILE_AFTER * architectures
    return loop.mode if compiles else "remat"
