"""Episodes of several policies in vector environments."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.rl import Environments, Episodes, Trajectories

ZERO = torch.zeros(())


def episodes(env_id: str, count: int, seed: int, vectorization: str = "auto") -> Episodes:
    made = Environments(env_id, vectorization)
    return Episodes(made, count, seed, torch.zeros(made.shape), torch.ones(made.shape))


def leaning(states: Tensor) -> Tensor:
    """Push the cart to where the pole leans: some fifty time steps."""
    return (states[..., 2] > 0).long()


def one_by_one(env_id: str, policy: object, seeds: list[int]) -> list[tuple[float, int]]:
    """Return and length of an episode per seed in gymnasium's own environment."""
    results = []
    for seed in seeds:
        environment = gymnasium.make(env_id)
        state, _ = environment.reset(seed=seed)
        total, length, ended = 0.0, 0, False
        while not ended:
            action = policy(torch.from_numpy(state))  # type: ignore[operator]
            state, reward, terminated, truncated, _ = environment.step(action.numpy())
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        results.append((total, length))
    return results


def played_in(trajectories: Trajectories) -> list[tuple[float, int]]:
    totals, lengths = trajectories.returns.flatten(), trajectories.alive.sum(0).flatten()
    return list(zip(totals.tolist(), lengths.tolist(), strict=True))


def test_discrete_actions_as_in_single_environments() -> None:
    found = episodes("CartPole-v1", 3, seed=5, vectorization="sync").play(leaning, 2, ZERO)
    expected = one_by_one("CartPole-v1", leaning, [5, 6, 7, 8, 9, 10])
    assert played_in(found) == expected
    assert len({length for _, length in expected}) > 1  # some end while others go on


@pytest.mark.parametrize("env_id", ["MountainCar-v0", "Pendulum-v1"])
def test_a_time_limit_ends_an_episode(env_id: str) -> None:
    continuous = env_id == "Pendulum-v1"

    def still(states: Tensor) -> Tensor:
        return torch.zeros(*states.shape[:-1], 1) if continuous else torch.ones(states.shape[:-1], dtype=torch.int64)

    found = episodes(env_id, 2, seed=0).play(still, 1, ZERO)
    assert len(found.actions) == 200
    torch.testing.assert_close(torch.tensor(played_in(found)), torch.tensor(one_by_one(env_id, still, [0, 1])))


def test_what_comes_after_an_end_is_masked() -> None:
    found = episodes("CartPole-v1", 8, seed=1).play(leaning, 1, ZERO)
    lengths = found.alive.sum(0)[0]
    assert lengths.min() < lengths.max() == len(found.actions)
    for episode, length in enumerate(lengths.tolist()):
        assert found.alive[:length, 0, episode].all()
        assert found.rewards[:, 0, episode].tolist() == [1.0] * length + [0.0] * (len(found.actions) - length)
        assert found.states[length, 0, episode, 2].abs() > 0.2  # the pole has fallen: not the state of a new episode


def test_time_steps_within_episodes_are_counted() -> None:
    batch = episodes("CartPole-v1", 8, seed=1)
    found = batch.play(leaning, 2, ZERO)
    assert batch.environments.steps == int(found.alive.sum())


def test_states_are_normalized_for_the_policies_alone() -> None:
    batch = episodes("CartPole-v1", 2, seed=0)
    scaled = Episodes(batch.environments, 2, 0, torch.ones(4), torch.tensor([2.0, 1.0, 0.5, 1.0]))
    raw, seen = batch.play(leaning, 1, ZERO), scaled.play(lambda states: leaning(states * 0.5 + 1), 1, ZERO)
    torch.testing.assert_close(seen.states, (raw.states - 1) / scaled.scale)
    assert torch.equal(seen.rewards, raw.rewards)


def test_continuous_actions_reach_from_bound_to_bound() -> None:
    made = Environments("Pendulum-v1")
    assert made.continuous
    np.testing.assert_allclose(made.native(torch.tensor([[-1.0], [0.0], [0.25], [3.0]])), [[-2], [0], [0.5], [2]])


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v9", "data.env_id must be an environment of gymnasium, got 'CartPole-v9': "),
        ("os:path", "data.env_id must be the name of a registered environment, got 'os:path'"),
        (
            "FrozenLake-v1",
            r"data.env_id: .*states of FrozenLake-v1 must be numbers \(a Box\), got Discrete|cannot be made",
        ),
    ],
)
def test_environments_that_cannot_be_used(env_id: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Environments(env_id)


def test_an_environment_without_a_vector_form_of_its_own() -> None:
    assert Environments("CartPole-v1").vectorization == "vector_entry_point"
    assert Environments("Acrobot-v1").vectorization == "sync"
    with pytest.raises(
        RecipeError, match=r"data.vectorization: Acrobot-v1 has no vector_entry_point: use sync or async"
    ):
        Environments("Acrobot-v1", "vector_entry_point")
    with pytest.raises(RecipeError, match=r"data.vectorization must be one of auto, .*, got 'thread'"):
        Environments("Acrobot-v1", "thread")


def test_copies_in_processes_play_the_same() -> None:
    def swing(states: Tensor) -> Tensor:
        return 2 * (states[..., 5] > 0).long()

    found = []
    for vectorization in ("sync", "async"):
        batch = episodes("Acrobot-v1", 2, seed=0, vectorization=vectorization)
        found.append(batch.play(swing, 1, ZERO))
        batch.environments.close()
    # Of the two, only copies in processes run on after an episode.
    inside = found[0].alive
    assert not inside.all()
    assert torch.equal(inside, found[1].alive)
    assert torch.equal(found[0].states[:-1][inside], found[1].states[:-1][inside])
    assert torch.equal(found[0].returns, found[1].returns)
