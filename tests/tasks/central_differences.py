"""The meta-gradient of a meta-step against central differences."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gtn_lightning.inner_loop.central_differences import distance
from gtn_lightning.meta_training.step import meta_step
from gtn_lightning.parts import Parts


def check_meta_gradient(made: Parts, real: Any, population: int = 1, step: float = 1e-5, directions: int = 1) -> None:
    """Compare the derivative of the meta-loss along random directions with its difference quotient, to 1e-5."""
    parameters = [*made.teacher.parameters(), *made.curriculum.parameters(), *made.inner_optimizer.parameters()]

    def loss() -> Tensor:
        return meta_step(made, population, real, (0, 0, 0), torch.device("cpu"))[0]

    gradient = parameters_to_vector(torch.autograd.grad(loss(), parameters))
    before = parameters_to_vector(parameters).detach()
    for seed in range(directions):
        direction = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))

        def shifted(shift: float, direction: Tensor = direction) -> float:
            vector_to_parameters(before + shift * direction, parameters)
            value = float(loss().detach())
            vector_to_parameters(before, parameters)
            return value

        assert distance(shifted, float(gradient @ direction), 0.0, [step], 1e-5) <= 1e-5
