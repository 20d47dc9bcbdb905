"""VICReg: the loss by another formula, and what its training does."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from gtn_lightning.data import DigitsData, VICReg, vicreg_loss
from gtn_lightning.errors import RecipeError

SHAPE = (1, 8, 8)


def test_the_loss_by_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.2, 1.5, 0.9])  # below and above the margin
    one, other = (torch.randn(9, 3, generator=generator, dtype=torch.float64) * scales + 4 for _ in range(2))
    expected = 7.0 * ((one - other) ** 2).mean().item()
    for view in (one.numpy(), other.numpy()):
        deviations = [math.sqrt(np.var(column, ddof=1) + 1e-4) for column in view.T]
        expected += 5.0 / 2 * float(np.mean([max(0.0, 1 - deviation) for deviation in deviations]))
        covariances = np.cov(view, rowvar=False)
        expected += 3.0 * float(sum(covariances[i, j] ** 2 for i in range(3) for j in range(3) if i != j)) / 3
    assert float(vicreg_loss(one, other, 7.0, 5.0, 3.0)) == pytest.approx(expected, rel=1e-12)


def test_views_of_spread_uncorrelated_features_that_agree_cost_nothing() -> None:
    features = 2 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(vicreg_loss(features, features)) == 0
    assert float(vicreg_loss(torch.zeros(4, 2), torch.zeros(4, 2))) > 20  # collapsed


def trained(seed: int = 0, **options: Any) -> torch.Tensor:
    data = DigitsData()
    data.setup()
    made = VICReg(**{"dimension": 4, "width": 2, "steps": 3, "batch_size": 16, "shift": 1.0, "noise": 0.1} | options)
    torch.manual_seed(0)
    network = made.network(SHAPE)
    assert made.train(network, data.split("train")[0], data.normalize, seed) == 48
    assert network(torch.randn(5, *SHAPE)).shape == (5, 4)
    return parameters_to_vector(network.parameters()).detach()


def test_training_is_a_function_of_its_seed() -> None:
    torch.manual_seed(3)
    one, again, other = trained(), trained(), trained(seed=1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(trained(expander=6), one)


def test_training_brings_views_together_and_keeps_images_apart() -> None:
    data = DigitsData()
    data.setup()
    images = data.split("train")[0]
    made = VICReg(dimension=8, width=8, steps=40, rotate=15, shift=1.0)
    torch.manual_seed(0)
    network = made.network(SHAPE)

    def loss() -> float:
        with torch.no_grad():
            views = (made._view(images[:256], data.normalize, key) for key in (1, 2))
            return float(vicreg_loss(*map(network, views)))

    before = loss()
    made.train(network, images, data.normalize, 0)
    assert loss() < 0.8 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 1}, "VICReg: dimension must be at least 2, got 1"),
        ({"steps": 1}, "VICReg: steps must be at least 2, got 1"),
        ({"noise": -1.0}, "VICReg: noise must be at least 0 and finite, got -1.0"),
        ({"lr": 0.0}, "VICReg: lr must be above 0 and finite, got 0.0"),
        ({"scale": 1.0}, "VICReg: scale must be below 1, got 1.0"),
        ({"shift": 0.0, "noise": 0.0}, "VICReg: views must differ, but crop, flip, rotate, scale, shift and noise are"),
        ({"batch_size": 2000}, "VICReg: batch_size must be at most 1197, the number of training images, got 2000"),
        ({"lr": 1e30}, r"VICReg: the loss is (nan|inf) after \d steps: lower its lr, 1e\+30"),
    ],
)
def test_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        trained(**options)
