"""A distribution of learners of known accuracy, whose meta-loss asks for their order."""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.learners import SpaceLearners
from gtn_lightning.nas.objective import RankingObjective
from gtn_lightning.nas.reference import TableReference
from gtn_lightning.nas.spaces import Choice, SearchSpace


class RankedLearners(SpaceLearners):
    """Several architectures of known accuracy in every meta-step, whose order is part of the meta-loss.

    The accuracies come from a small table; their trainings are part of the teacher's cost. Architectures that are held
    out are not used, so that the teacher ranks them without knowledge of them. ``GTN(population=K)`` sets the number.

    Args:
        space: the search space.
        reference: the known accuracies; architectures of the table that meta-training leaves out are not used.
        weight, temperature, tie: see `RankingObjective`.
        held_out, only, without_families: see `SpaceLearners`.

    Raises:
        RecipeError: fewer than two architectures are known, or a value is out of range.
    """

    one_architecture = False

    def __init__(
        self,
        space: SearchSpace,
        reference: TableReference,
        weight: float = 1.0,
        temperature: float = 0.2,
        tie: float = 0.002,
        held_out: float = 0.5,
        only: dict[str, list[Choice]] | None = None,
        without_families: Sequence[str] = (),
    ) -> None:
        super().__init__(space, held_out, only, without_families)
        self.reference = reference
        self.weight = weight
        self.temperature = temperature
        self.tie = tie
        self._objective = RankingObjective(weight, temperature, tie)
        known = [architecture for architecture in map(space.parse, reference.names) if self.teaches(architecture)]
        if len(known) < 2:
            raise RecipeError(
                f"RankedLearners: {reference.path} must hold at least 2 architectures that may be taught, got "
                f"{len(known)}: measure more of them, or lower held_out"
            )
        self._known = dict(zip(known, reference.accuracies(space, known).mean(dim=1).tolist(), strict=True))
        self._accuracies: Mapping[nn.Module, float] = {}

    def described_as(self) -> SpaceLearners:
        """Return the learners alone: a teacher file is read without the table."""
        return SpaceLearners(self.space, self.held_out, self.only, self.without_families)

    def population(self, generator: torch.Generator, count: int) -> list[nn.Module]:
        """Return learners of different known architectures."""
        known = list(self._known)
        order = torch.randperm(len(known), generator=generator).tolist()
        chosen = [known[order[place % len(known)]] for place in range(count)]
        learners = [self.space.build(architecture) for architecture in chosen]
        # Weak: nothing else keeps the learners of a meta-step.
        self._accuracies = WeakKeyDictionary(zip(learners, map(self._known.__getitem__, chosen), strict=True))
        return learners

    def known_accuracies(self, learners: Sequence[nn.Module]) -> Tensor:
        """Return the known accuracies of learners of the last `population`, ``[learners]``."""
        return torch.tensor([self._accuracies[learner] for learner in learners])

    def meta_loss(self, learners: Sequence[nn.Module], losses: Tensor) -> Tensor:
        """Return the ranking objective, a scalar, of the learners' meta-losses ``[learners]``."""
        return self._objective(losses, self.known_accuracies(learners))
