"""Ways of choosing an inner learning rate, on hand-made values."""

import pytest

from gtn_lightning.nas import Architecture, ConvNetGrid
from gtn_lightning.nas.proxies.base import Cost
from gtn_lightning.nas.proxies.rates import FAMILY_SAMPLE, OwnRate, RatePerArchitecture, RatePerFamily, Rates, rates_of

GRID = ConvNetGrid((1, 8, 8), 10, widths=[4, 8], depths=[1, 2])
BATCH, NONE = GRID.parse("w4-d1-relu-batch-max"), GRID.parse("w8-d2-sigmoid-none-none")


def better_without_norm_if_slow(architecture: Architecture, rate: float) -> tuple[float, Cost]:
    wanted = 0.01 if architecture.choices["norm"] == "none" else 0.1
    return -abs(rate - wanted), Cost(steps=5)


@pytest.mark.parametrize(
    ("values", "tune", "kind"),
    [
        (None, "architecture", OwnRate),
        ([0.1], "architecture", RatePerArchitecture),
        ([0.1], "family", RatePerFamily),
    ],
)
def test_arguments_name_the_way(values: list[float] | None, tune: str, kind: type[Rates]) -> None:
    assert type(rates_of(values, tune, GRID, better_without_norm_if_slow)) is kind


def test_the_optimizers_own_rate_and_all_rates_cost_nothing_to_choose() -> None:
    for rates, expected in ((OwnRate(), [None]), (RatePerArchitecture([0.01, 0.1]), [0.01, 0.1])):
        assert rates.candidates(BATCH) == expected
        assert rates.cost == Cost()


def test_a_family_has_one_rate_which_is_paid_for_once() -> None:
    rates = RatePerFamily([0.01, 0.03, 0.1], GRID, better_without_norm_if_slow)
    assert rates.candidates(BATCH) == [0.1]
    assert rates.cost == Cost(steps=3 * FAMILY_SAMPLE * 5)
    assert rates.candidates(GRID.parse("w8-d2-sigmoid-batch-max")) == [0.1]
    assert rates.cost == Cost(steps=3 * FAMILY_SAMPLE * 5)
    assert rates.candidates(NONE) == [0.01]
    assert rates.cost == Cost(steps=2 * 3 * FAMILY_SAMPLE * 5)


class Rare(ConvNetGrid):
    """A grid with a family of its own for an architecture that is never drawn."""

    def family(self, architecture: Architecture) -> str:
        return "rare" if architecture.name == "rare" else "common"


def test_a_family_that_is_never_drawn_tries_all_rates() -> None:
    rates = RatePerFamily([0.01, 0.1], Rare((1, 8, 8), 10, depths=[1]), better_without_norm_if_slow)
    assert rates.candidates(Architecture("rare", {})) == [0.01, 0.1]
    assert rates.cost == Cost()
