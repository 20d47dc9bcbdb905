"""Meta-training for the right order of architectures."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.learners import SpaceLearners
from gtn_lightning.nas.reference import TableReference
from gtn_lightning.nas.spaces import Choice, SearchSpace


class RankedLearners(SpaceLearners):
    r"""Every meta-step teaches several architectures of known accuracy, and asks for their order.

    .. math:: \frac{1}{K} \sum_i \ell_i \; + \; w \operatorname*{mean}_{a_i > a_j + \delta}
        \log\left(1 + \exp \frac{s_j - s_i}{\tau}\right), \qquad s = -\log \ell

    with the meta-losses :math:`\ell` of the K learners and their known accuracies :math:`a`. The pairwise logistic loss
    is RankNet's (Burges et al., 2005); that a score learned from few architectures should rank others is the idea of
    Synthetic Petri Dish (Rawal et al., arXiv 2005.13092).

    The known accuracies are paid for: they come from a small table of architectures that are not among those held out,
    so that whatever is ranked later is unknown to the teacher. ``GTN(population=K)`` sets K.

    Args:
        space: the search space.
        reference: the known accuracies; what the table holds beyond the taught part is left alone.
        weight: w.
        temperature: :math:`\tau`.
        tie: :math:`\delta`: pairs whose accuracies differ by no more count as equal.
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
        for key, value in (("weight", weight), ("temperature", temperature)):
            if value <= 0:
                raise RecipeError(f"RankedLearners: {key} {value} given, expected a number above 0")
        self.reference = reference
        self.weight = weight
        self.temperature = temperature
        self.tie = tie
        known = [name for name in reference.architectures if self.teaches(name)]
        if len(known) < 2:
            raise RecipeError(
                f"RankedLearners: {len(known)} architectures of {reference.path} may be taught, expected at least 2: "
                "measure more of them, or hold out less"
            )
        self._accuracy = dict(zip(known, reference.accuracies(space, known).mean(dim=1).tolist(), strict=True))

    def described_as(self) -> SpaceLearners:
        """Return the learners alone: whoever reads a teacher file need not have the table."""
        return SpaceLearners(self.space, self.held_out, self.only, self.without_families)

    def population(self, generator: torch.Generator, count: int) -> list[nn.Module]:
        """Return learners of different known architectures."""
        known = list(self._accuracy)
        order = torch.randperm(len(known), generator=generator).tolist()
        learners = []
        for place in range(count):
            name = known[order[place % len(known)]]
            learner = self.space.build(name)
            learner.known_accuracy = torch.tensor(self._accuracy[name])
            learners.append(learner)
        return learners

    def meta_loss(self, learners: Sequence[nn.Module], losses: Tensor) -> Tensor:
        """Return mean meta-loss and ranking loss together."""
        accuracies = torch.stack([torch.as_tensor(learner.known_accuracy) for learner in learners]).to(losses)
        ranking = ranking_loss(-losses.log(), accuracies, self.temperature, self.tie)
        return losses.mean() + self.weight * ranking


def ranking_loss(scores: Tensor, accuracies: Tensor, temperature: float, tie: float) -> Tensor:
    """Return the mean logistic loss over all pairs whose order is known, zero where there is none.

    Args:
        scores: what is to be in the order of the accuracies, ``[K]``.
        accuracies: ``[K]``.
        temperature: the difference of two scores that counts as one.
        tie: pairs whose accuracies differ by no more are left out.
    """
    better = accuracies[:, None] > accuracies[None, :] + tie
    losses = F.softplus((scores[None, :] - scores[:, None]) / temperature)
    return (losses * better).sum() / better.sum().clamp(min=1)
