"""Policies that act at once give what each gives alone."""

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.inner_loop import Functional
from gtn_lightning.learners import MLP, ConvNet
from gtn_lightning.rl import Policies


class Branching(nn.Module):
    """Its code depends on its data, so that it cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.layer(states)
        return -outputs if float(outputs.sum()) > 0 else outputs


def check(networks: list[nn.Module], shape: tuple[int, ...] = (4,)) -> None:
    states = torch.randn(len(networks), 5, *shape)
    members = [(Functional(network), *Functional(network).init()) for network in networks]
    policies = Policies(members)
    for batch in (states, states + 1):  # recorded once, used again
        expected = torch.stack([network.eval()(own) for network, own in zip(networks, batch, strict=True)])
        torch.testing.assert_close(policies(batch), expected)


def test_of_one_architecture() -> None:
    check([MLP((4,), 2, [8, 8], activation="tanh") for _ in range(3)])


def test_of_several_architectures_in_any_order() -> None:
    wide, deep = (lambda: MLP((4,), 2, [16])), (lambda: MLP((4,), 2, [8, 8], norm="layer", activation="tanh"))
    check([wide(), deep(), wide(), deep(), wide()])


@pytest.mark.parametrize("pooling", ["max", "average", "stride"])
def test_of_convolutions(pooling: str) -> None:
    check([ConvNet((1, 6, 6), 2, 4, 1, norm="group", pooling=pooling) for _ in range(3)], (1, 6, 6))


def test_dropout_is_off() -> None:
    check([nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)) for _ in range(2)])


def test_networks_that_cannot_be_recorded() -> None:
    check([Branching() for _ in range(3)])
