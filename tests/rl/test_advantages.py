"""Advantages against the formulas, written as loops."""

import pytest
import torch
from torch import Tensor

from gtn_lightning.rl import Trajectories, advantages
from gtn_lightning.rl.advantages import (
    features_of,
    generalized_advantages,
    linear_values,
    polynomial_values,
    rewards_to_go,
)

LENGTHS = (3, 5, 1)
"""Time steps of each episode."""


def played() -> Trajectories:
    generator = torch.Generator().manual_seed(0)
    alive = torch.zeros(5, 1, 3, dtype=torch.bool)
    for episode, length in enumerate(LENGTHS):
        alive[:length, 0, episode] = True
    states = torch.randn(6, 1, 3, 2, generator=generator, dtype=torch.float64)
    rewards = torch.randn(5, 1, 3, generator=generator, dtype=torch.float64) * alive
    return Trajectories(states, torch.zeros(5, 1, 3), rewards, alive)


def test_generalized_advantages() -> None:
    trajectories, discount, trace = played(), 0.9, 0.8
    values = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = generalized_advantages(trajectories, values, discount, trace)
    for episode, length in enumerate(LENGTHS):
        reward, value = trajectories.rewards[:, 0, episode], values[:, 0, episode].clone()
        value[length] = 0
        for start in range(length):
            # Equation 16 of Schulman et al., arXiv 1506.02438.
            expected = sum(
                (discount * trace) ** (step - start) * (reward[step] + discount * value[step + 1] - value[step])
                for step in range(start, length)
            )
            assert float(found[start, 0, episode]) == pytest.approx(float(expected))
        assert not found[length:, 0, episode].any()


def test_rewards_to_go() -> None:
    rewards = torch.tensor([1.0, 2.0, 4.0])
    assert rewards_to_go(rewards, 0.5).tolist() == [3.0, 4.0, 4.0]


def test_a_value_that_is_linear_is_found() -> None:
    """With discount 0, the return is the next reward, here a linear function of the state."""
    trajectories = played()
    weights = torch.tensor([2.0, -1.0], dtype=torch.float64)
    longer = Trajectories(*(torch.cat([part] * 8, dim=2) for part in trajectories))
    states = torch.randn(longer.states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    longer = longer._replace(states=states, rewards=(states[:-1] @ weights + 3) * longer.alive)
    to_go = rewards_to_go(longer.rewards, 0.0)
    torch.testing.assert_close(linear_values(longer, to_go, 0.0), states @ weights + 3, rtol=1e-3, atol=1e-3)


def test_a_value_that_is_a_product_is_found_by_a_polynomial_alone() -> None:
    trajectories = played()
    longer = Trajectories(*(torch.cat([part] * 40, dim=2) for part in trajectories))
    states = torch.randn(longer.states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    value = states[..., 0] * states[..., 1] - 2 * states[..., 0] * states[..., 1] ** 2
    longer = longer._replace(states=states, rewards=value[:-1] * longer.alive)
    to_go = rewards_to_go(longer.rewards, 0.0)
    torch.testing.assert_close(polynomial_values(longer, to_go, 0.0), value, rtol=1e-2, atol=1e-2)
    assert float((linear_values(longer, to_go, 0.0) - value).abs().mean()) > 0.5


def test_polynomial_values_fall_off_towards_a_time_limit() -> None:
    """With a constant reward, the discounted return is a geometric sum."""
    alive = torch.ones(200, 2, 4, dtype=torch.bool)
    states = torch.randn(201, 2, 4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    trajectories = Trajectories(states, torch.zeros(200, 2, 4), -alive.double(), alive)
    to_go = rewards_to_go(trajectories.rewards, 0.9)
    torch.testing.assert_close(polynomial_values(trajectories, to_go, 0.9)[:-1], to_go, rtol=0, atol=0.2)
    assert float((linear_values(trajectories, to_go, 0.9)[:-1] - to_go).abs().max()) > 1


@pytest.mark.parametrize(("numbers", "features"), [(1, 9), (2, 29), (3, 69)])
def test_the_number_of_features(numbers: int, features: int) -> None:
    """Products of up to four numbers, and these and 1 times a power of the discount."""
    assert features_of(numbers, "polynomial") == features


@pytest.mark.parametrize("baseline", ["linear", "polynomial", "time"])
def test_they_are_standardized_within_episodes(baseline: str) -> None:
    trajectories = played()
    found = advantages(trajectories, baseline, 0.99, 0.95)
    inside: Tensor = found[trajectories.alive]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-9)
    assert float(inside.std(correction=0)) == pytest.approx(1)
    assert not found[~trajectories.alive].any()


def test_the_mean_over_episodes_at_a_time_step_is_subtracted() -> None:
    trajectories = played()
    found = advantages(trajectories, "time", 1.0, 0.95)
    to_go = rewards_to_go(trajectories.rewards, 1.0)
    expected = to_go.clone()
    for step in range(5):
        here = trajectories.alive[step]
        expected[step] -= to_go[step][here].mean()
    inside = expected[trajectories.alive]
    expected = (expected - inside.mean()) / inside.std(correction=0)
    torch.testing.assert_close(found[trajectories.alive], expected[trajectories.alive])


def test_rounding_is_no_signal() -> None:
    alive = torch.ones(200, 2, 4, dtype=torch.bool)
    alike = Trajectories(torch.zeros(201, 2, 4, 1), torch.zeros(200, 2, 4), -torch.ones(200, 2, 4), alive)
    assert float(advantages(alike, "time", 0.99, 0.95).abs().max()) < 0.05
