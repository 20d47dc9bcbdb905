"""The meta-gradient of a meta-step against central differences."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gtn_lightning.meta_training.step import meta_step
from gtn_lightning.parts import Parts


def check_meta_gradient(
    made: Parts, real: Any, population: int = 1, distance: float = 1e-5, directions: int = 1
) -> None:
    """Compare the derivative of the meta-loss along random directions with its difference quotient, to 1e-5."""
    parameters = [*made.teacher.parameters(), *made.curriculum.parameters(), *made.inner_optimizer.parameters()]

    def loss() -> Tensor:
        return meta_step(made, population, real, (0, 0, 0), torch.device("cpu"))[0]

    gradient = parameters_to_vector(torch.autograd.grad(loss(), parameters))
    before = parameters_to_vector(parameters).detach()
    for seed in range(directions):
        direction = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))
        losses = []
        for sign in (1, -1):
            vector_to_parameters(before + sign * distance * direction, parameters)
            losses.append(float(loss().detach()))
        vector_to_parameters(before, parameters)
        quotient = (losses[0] - losses[1]) / (2 * distance)
        assert float(gradient @ direction) == pytest.approx(quotient, rel=1e-5)
