"""The learners of the next meta-step, sampled while a GPU computes this one."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gtn_lightning.captures import settings
from gtn_lightning.inner_loop.replay import RandomState, random_state, restore_random_state
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator, keyed_rng

Place = tuple[int, int, int]
"""Number of the learners in the meta-step, number of the meta-step, number of the batch."""


class _Sampled(NamedTuple):
    """Learners of a place, and the random states after they were sampled."""

    place: Place
    settings: Hashable
    networks: Sequence[nn.Module]
    generator: Tensor
    state: RandomState


class Ahead:
    """Learners that are sampled before their meta-step.

    They are functions of the meta-step's key, so the time does not matter. Making one on the CPU takes a tenth of the
    time in which a GPU computes a meta-step.

    Args:
        device: the device of the learners.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.taken = 0
        """Number of meta-steps whose learners were sampled before."""
        self._sampled: _Sampled | None = None

    def sample(self, parts: Parts, population: int, place: Place) -> None:
        """Sample the learners of a place, and leave the random state alone."""
        generator = keyed_generator(parts.seed, "train", *place)
        with keyed_rng(parts.seed, "train", *place, device=self.device):
            networks = parts.learners.population(generator, population)
            state = random_state(self.device)
        self._sampled = _Sampled(place, settings(parts.learners), networks, generator.get_state(), state)

    def take(
        self, learners: LearnerDistribution, place: Place, generator: torch.Generator
    ) -> Sequence[nn.Module] | None:
        """Return the learners of a place if they were sampled last; the random states are then those after sampling.

        Args:
            learners: the distribution; its settings must be as they were.
            place: the place.
            generator: the meta-step's generator.
        """
        sampled, self._sampled = self._sampled, None
        if sampled is None or sampled.place != place or sampled.settings != settings(learners):
            return None
        self.taken += 1
        generator.set_state(sampled.generator)
        restore_random_state(sampled.state, self.device)
        return sampled.networks
