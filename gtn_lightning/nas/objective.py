"""The ranking-aware meta-loss."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError


@dataclass(frozen=True)
class RankingObjective:
    r"""The mean meta-loss of several learners, and a loss for every pair of them in the wrong order.

    .. math:: \frac{1}{K} \sum_i \ell_i \; + \; w \operatorname*{mean}_{a_i > a_j + \delta}
        \log\left(1 + \exp \frac{s_j - s_i}{\tau}\right), \qquad s = -\log \ell

    with the meta-losses :math:`\ell` of the K learners and their known accuracies :math:`a`. The pairwise logistic loss
    is RankNet's (Burges et al., 2005); that a score learned from few architectures should rank others is the idea of
    Synthetic Petri Dish (Rawal et al., arXiv 2005.13092).

    Args:
        weight: w.
        temperature: :math:`\tau`.
        tie: :math:`\delta`: pairs whose accuracies differ by no more count as equal.

    Raises:
        RecipeError: a value is out of range.
    """

    weight: float = 1.0
    temperature: float = 0.2
    tie: float = 0.002

    def __post_init__(self) -> None:
        for key in ("weight", "temperature"):
            if getattr(self, key) <= 0:
                raise RecipeError(f"RankedLearners: {key} must be above 0, got {getattr(self, key)}")

    def __call__(self, losses: Tensor, accuracies: Tensor) -> Tensor:
        """Return the objective, a scalar.

        Args:
            losses: the learners' meta-losses, ``[K]``.
            accuracies: their known accuracies, ``[K]``.
        """
        ranking = ranking_loss(-losses.log(), accuracies.to(losses), self.temperature, self.tie)
        return losses.mean() + self.weight * ranking


def ranking_loss(scores: Tensor, accuracies: Tensor, temperature: float, tie: float) -> Tensor:
    """Return the mean logistic loss over all pairs whose order is known, zero where there is none.

    Args:
        scores: to be in the order of the accuracies, ``[K]``.
        accuracies: ``[K]``.
        temperature: the unit of differences between scores.
        tie: pairs whose accuracies differ by no more are left out.
    """
    better = accuracies[:, None] > accuracies[None, :] + tie
    losses = F.softplus((scores[None, :] - scores[:, None]) / temperature)
    return (losses * better).sum() / better.sum().clamp(min=1)
