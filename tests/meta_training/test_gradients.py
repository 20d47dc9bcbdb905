"""Evolution strategies against the exact gradient."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD
from gtn_lightning.meta_training import EvolutionStrategies, MetaGradient
from gtn_lightning.meta_training.gradients import MetaStep
from gtn_lightning.teachers import RealData
from tests.tiny import BATCH, STEPS, make_gtn, make_trainer, same


def estimate(
    strategies: EvolutionStrategies, function: Any, parameters: list[Tensor], seed: int = 0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    step = MetaStep(
        evaluate=lambda number: (function(), torch.zeros(())),
        parameters=lambda: parameters,
        generator=lambda: torch.Generator().manual_seed(seed),
        gather=lambda tensor: tensor[None],
        rank=0,
    )
    loss, _ = strategies.loss(step)
    return loss, torch.autograd.grad(loss, parameters)


def test_a_linear_function_has_its_gradient_in_the_mean() -> None:
    """Of a linear function f(p) = g p, the estimate is the mean of (g e) e / sigma^2, whose expectation is g."""
    slope = torch.tensor([1.0, -2.0, 0.5])
    parameter = nn.Parameter(torch.zeros(3))
    strategies = EvolutionStrategies(pairs=20_000, sigma=0.1, shaping="values")
    loss, (found,) = estimate(strategies, lambda: slope @ parameter, [parameter])
    torch.testing.assert_close(found, slope, atol=0.05, rtol=0)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)  # antithetic pairs cancel


def test_a_pair_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    noise = 0.5 * torch.randn(1, generator=torch.Generator().manual_seed(3))
    strategies = EvolutionStrategies(pairs=1, sigma=0.5, shaping="values")
    _, (found,) = estimate(strategies, lambda: parameter.square().sum(), [parameter], seed=3)
    expected = ((1 + noise) ** 2 - (1 - noise) ** 2) * noise / (2 * 0.5**2)
    torch.testing.assert_close(found, expected)


def test_ranks_are_those_of_all_processes() -> None:
    strategies = EvolutionStrategies(pairs=1)
    values = torch.tensor([[[3.0, 100.0]], [[float("nan"), -1.0]]])
    shaped = strategies._shaped(values)  # the public way needs two processes
    torch.testing.assert_close(shaped, torch.tensor([[[-1 / 6, 1 / 6]], [[0.5, -0.5]]]))


def test_a_constant_loss_has_no_gradient() -> None:
    parameter = nn.Parameter(torch.ones(4))
    for constant in (200.0, float("inf")):
        _, (found,) = estimate(EvolutionStrategies(pairs=16), lambda: torch.tensor(constant), [parameter])  # noqa: B023
        assert not found.any()


def test_parameters_are_restored_in_every_bit_also_after_an_error() -> None:
    parameter = nn.Parameter(torch.randn(50))
    before = parameter.detach().clone()
    estimate(EvolutionStrategies(pairs=3), lambda: parameter.sum(), [parameter])
    assert torch.equal(parameter.detach(), before)

    def fails() -> Tensor:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        estimate(EvolutionStrategies(pairs=3), fails, [parameter])
    assert torch.equal(parameter.detach(), before)


def test_a_pair_teaches_the_same_learners_and_other_pairs_others() -> None:
    seen: list[int] = []
    step = MetaStep(
        evaluate=lambda number: (torch.zeros(()), seen.append(number) or torch.zeros(())),  # type: ignore[func-returns-value]
        parameters=lambda: [nn.Parameter(torch.zeros(1))],
        generator=torch.Generator,
        gather=lambda tensor: tensor[None].expand(3, *tensor.shape),
        rank=2,
    )
    EvolutionStrategies(pairs=2).loss(step)
    assert seen == [4, 4, 5, 5]


def test_a_classification_learns_its_rates_by_it(tmp_path: Path) -> None:
    """A rate that is far too low grows, as by the exact gradient."""
    grown = []
    for gradient in (EvolutionStrategies(pairs=4), MetaGradient()):
        optimizer = SGD(lr=0.001, learned=["lr"])
        curriculum = ShuffledPasses(STEPS, BATCH, 10, images=1197)
        gtn = make_gtn(
            teacher=RealData(),
            curriculum=curriculum,
            inner_optimizer=optimizer,
            outer_gradient=gradient,
            outer_optimizer=partial(torch.optim.Adam, lr=0.2),
        )
        make_trainer(tmp_path, max_steps=10).fit(gtn, DigitsData(64))
        grown.append(float(optimizer.schedules(STEPS)["lr"][0].detach()) / 0.001)
    assert min(grown) > 3


def test_a_resumed_run_gives_the_same_teacher(tmp_path: Path) -> None:
    def fit(steps: int, resume: Path | None = None) -> Any:
        gtn = make_gtn(outer_gradient=EvolutionStrategies(pairs=2))
        trainer = make_trainer(tmp_path, max_steps=steps)
        trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return gtn

    fit(2)
    assert same(fit(4, tmp_path / "2.ckpt").state_dict(), fit(4).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"sigma": 0.0}, "sigma must be above 0 and finite, got 0.0"),
        ({"shaping": "log"}, "shaping must be ranks or values, got 'log'"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        EvolutionStrategies(**arguments)
