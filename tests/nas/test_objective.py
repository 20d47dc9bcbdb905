"""The ranking-aware meta-loss, by hand."""

import pytest
import torch

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.objective import RankingObjective, ranking_loss


def test_the_ranking_loss_by_hand() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64, requires_grad=True)
    accuracies = torch.tensor([0.9, 0.8, 0.8001])
    loss = ranking_loss(scores, accuracies, temperature=2.0, tie=0.01)
    # Only the first is known to be better than the others, by which it is beaten.
    expected = (torch.log1p(torch.exp(torch.tensor(1.0))) + torch.log1p(torch.exp(torch.tensor(0.5)))) / 2
    assert loss.item() == pytest.approx(float(expected))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0] < 0 < gradient[1]
    assert float(ranking_loss(scores, torch.full((3,), 0.5), 1.0, 0.01)) == 0


def test_the_objective_is_the_mean_loss_and_the_weighted_ranking_loss() -> None:
    losses, accuracies = torch.tensor([0.5, 1.0, 0.2, 2.0]), torch.tensor([0.7, 0.9, 0.8, 0.6])
    expected = losses.mean() + 3.0 * ranking_loss(-losses.log(), accuracies, 0.5, 0.01)
    assert torch.equal(RankingObjective(weight=3.0, temperature=0.5, tie=0.01)(losses, accuracies), expected)


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"temperature": -1.0}])
def test_an_objective_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=f"RankedLearners: {next(iter(options))} must be above 0"):
        RankingObjective(**options)
