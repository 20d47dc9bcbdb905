"""AZ-NAS against what can be computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import AZNAS, ConvNetGrid, MeanRank, NumParameters
from gtn_lightning.nas.proxies.az_nas import az_nas, log_rank

GRID = ConvNetGrid((1, 8, 8), 10, widths=[4, 8], depths=[1, 2])


def scaling(*factors: float) -> nn.Sequential:
    """Return a chain of layers that multiply images by factors."""
    layers = [nn.Conv2d(1, 1, 1, bias=False) for _ in factors]
    for layer, factor in zip(layers, factors, strict=True):
        nn.init.constant_(layer.weight, factor)
    return nn.Sequential(*layers)


def images_with_variances(*variances: float) -> Tensor:
    """Return images whose channels are independent, with these variances."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(variances))
    return (signs * torch.tensor(variances).sqrt())[:, :, None, None]


def entropy(*shares: float) -> float:
    return -sum(share * math.log(share) for share in shares)


def test_one_channel_has_no_entropy_and_the_jacobian_of_its_factor() -> None:
    expressivity, progressivity, trainability = az_nas(scaling(2.0, 0.5, 1.0), torch.randn(4, 1, 3, 3))
    assert (expressivity, progressivity) == (0, 0)
    assert trainability == pytest.approx((-0.5 - 0.5 + 0.0) / 3)


def test_expressivity_is_the_entropy_of_eigenvalues_and_progressivity_its_least_increase() -> None:
    halve, turn = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        halve.weight.copy_(torch.diag(torch.tensor([0.5, 1.0]))[:, :, None, None])
        turn.weight.copy_(torch.tensor([[0.6, -0.8], [0.8, 0.6]])[:, :, None, None])
    expressivity, progressivity, _ = az_nas(nn.Sequential(halve, turn), images_with_variances(9.0, 1.0))
    before, after = entropy(0.9, 0.1), entropy(2.25 / 3.25, 1 / 3.25)
    assert expressivity == pytest.approx(before + 2 * after)  # a rotation changes no eigenvalue
    assert progressivity == pytest.approx(0, abs=1e-6)


def test_the_jacobian_is_that_of_channels_where_there_are_many_pixels() -> None:
    layer = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.5]))[:, :, None, None])
    torch.manual_seed(0)
    *_, trainability = az_nas(nn.Sequential(layer), torch.randn(16, 3, 64, 64))
    assert trainability == pytest.approx(2 - 3 - 1 / 3, abs=0.1)


def test_a_block_without_gradient_is_the_least_trainable_and_the_network_stays_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(inplace=True), *scaling(0.0))
    expressivity, _, trainability = az_nas(network, torch.randn(4, 1, 3, 3))
    assert trainability == -math.inf
    assert math.isfinite(expressivity)
    assert float(network[0].num_batches_tracked) == 0
    assert not network._forward_pre_hooks


def test_a_low_rank_costs_more_than_high_ones_gain() -> None:
    even, one, other = log_rank(torch.tensor([[2.0, 2.0], [3.0, 1.0], [-math.inf, 3.0]]).numpy())
    assert even > one == pytest.approx(other)


def test_candidates_are_placed_among_a_sample_that_is_paid_for_once(data: DigitsData) -> None:
    scorer = AZNAS(images=4, calibration=6).bind(GRID, data)
    assert scorer.overhead().images == 0
    cells = list(GRID)[::12]
    one_by_one = [scorer.evaluate(cell).value for cell in cells]
    assert all(map(math.isfinite, one_by_one))
    assert scorer.overhead().images == 6 * 4
    assert scorer(cells[0]) == one_by_one[0]
    together = scorer.evaluate_all(cells)
    assert together[0].cost.images == 4
    assert len({score.value for score in together}) > 1
    assert scorer.evaluate_all([]) == []
    features = scorer.features(cells[0])
    assert len(features.values) == 4


def test_other_proxies_are_ranked_with_it(data: DigitsData) -> None:
    cells = list(GRID)[::12]
    proxy = AZNAS(images=4, proxies=[NumParameters()], calibration=6)
    assert proxy.name == "AZ-NAS and parameters"
    scorer = proxy.bind(GRID, data)
    features = [scorer.features(cell).values for cell in cells]
    assert [row[-1] for row in features] == [NumParameters().bind(GRID, data)(cell) for cell in cells]
    together = [score.value for score in scorer.evaluate_all(cells)]
    assert together == pytest.approx(log_rank(np.array(features)))
    combined = MeanRank([proxy]).bind(GRID, data)
    assert len(combined.evaluate_all(cells)) == len(cells)


def test_what_cannot_be_measured_is_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match="images must be at least 2, got 1"):
        AZNAS(images=1)
    with pytest.raises(RecipeError, match=r"Linear has no nn\.Sequential of blocks"):
        az_nas(nn.Linear(3, 3), torch.randn(2, 1, 3, 3))
