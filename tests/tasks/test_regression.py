"""Regression: its losses, its metrics, and what it refuses."""

import pytest
import torch
from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import Functional
from gtn_lightning.learners import MLP
from gtn_lightning.task import Points
from gtn_lightning.tasks import Regression


@pytest.mark.parametrize("outputs", [1, 2])
def test_metrics_over_batches_are_those_of_all_data(outputs: int) -> None:
    task, net = Regression(outputs), nn.Linear(3, outputs)
    learner = Functional(net)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :outputs] + 0.1
    metrics = [metric.make() for metric in task.metrics()]
    with torch.no_grad():
        for rows in (slice(7), slice(7, 20)):
            task.score(learner, *learner.init(), (inputs[rows], targets[rows]), metrics)
        residuals = net(inputs) - targets
    error = residuals.square().mean().sqrt()
    explained = 1 - residuals.square().sum(0) / (targets - targets.mean(0)).square().sum(0)
    torch.testing.assert_close(metrics[0].compute(), error)
    torch.testing.assert_close(metrics[1].compute(), explained.mean())


def test_losses_are_the_squared_error() -> None:
    learner = Functional(nn.Linear(3, 1))
    inputs, targets = torch.randn(4, 3), torch.randn(4, 1)
    with torch.no_grad():
        loss, _ = Regression().inner_loss(learner)(*learner.init(), inputs, targets)
        outputs, _ = learner(*learner.init(), inputs)
    torch.testing.assert_close(loss, (outputs - targets).square().mean())


def test_the_leading_metric_is_an_error_of_which_less_is_better() -> None:
    leading = Regression().metrics()[0]
    assert (leading.name, leading.higher_is_better, leading.text(0.12345)) == ("rmse", False, "0.1235")


def test_rows_are_shown_as_points_colored_by_their_target() -> None:
    inputs, targets = torch.randn(6, 3), torch.randn(6, 2)
    shown = Regression(2).shown({"inputs": inputs, "targets": targets})
    assert isinstance(shown, Points)
    assert torch.equal(shown.values, targets[:, 0])


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (1, torch.zeros(4), r"targets that are float32 \[4\] for 4 inputs, expected .* \[4, 1\]"),
        (2, torch.zeros(4, 1), r"expected floating point numbers \[4, 2\]: .*task.outputs"),
        (1, torch.zeros(4, 1, dtype=torch.int64), "targets that are int64"),
        (1, torch.full((4, 1), torch.inf), "targets with NaN or infinity, 4 of 4"),
    ],
)
def test_targets_that_are_none(outputs: int, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Regression(outputs).check_batch((torch.zeros(4, 3), targets), "the data")


def test_a_learner_of_another_number_of_outputs() -> None:
    with pytest.raises(
        RecipeError, match=r"returns a tensor of shape \[2, 3\] for 2 inputs but the task has 1 outputs"
    ):
        Regression().check(MLP((3,), 3), (torch.zeros(4, 3), torch.zeros(4, 1)))
    with pytest.raises(RecipeError, match=r"cannot take inputs of shape \[3\].*set its shape to the data's"):
        Regression().check(MLP((4,), 1), (torch.zeros(4, 3), torch.zeros(4, 1)))


def test_no_outputs() -> None:
    with pytest.raises(RecipeError, match="outputs must be at least 1, got 0"):
        Regression(0)
