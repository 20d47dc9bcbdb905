"""Advantages: by how much an action was better than what was to be expected in its state."""

import torch
from torch import Tensor

from gtn_lightning.rl.environments import Trajectories

BASELINES = ("linear", "time")
"""``linear``: generalized advantage estimation (Schulman et al., arXiv 1506.02438) with a linear value function of
states and time (Duan et al., arXiv 1604.06778, appendix), fitted to the returns of the same episodes; ``time``: rewards
to go minus their mean over all episodes at the same time step."""

RIDGE = 1e-5
"""Relative regularization of the linear fit."""


def advantages(played: Trajectories, baseline: str, discount: float, trace: float) -> Tensor:
    """Return the advantage of every action, standardized over all time steps within episodes.

    There is no critic that is trained along with the teacher: both baselines depend on these episodes alone, so that
    meta-training has no further state, and resumes and runs in several processes as without.

    Args:
        played: the episodes of all policies.
        baseline: one of `BASELINES`.
        discount: factor of a reward one time step later, gamma.
        trace: lambda of generalized advantage estimation, for ``linear``.

    Returns:
        ``[T, M, E]``, zero after an episode's end.
    """
    alive = played.alive
    to_go = rewards_to_go(played.rewards, discount)
    if baseline == "time":
        mean = (to_go * alive).sum((1, 2), keepdim=True) / alive.sum((1, 2), keepdim=True).clamp(min=1)
        found = to_go - mean
    else:
        found = generalized_advantages(played, linear_values(played, to_go), discount, trace)
    inside = found[alive]
    # Differences that are rounding are no signal.
    spread = inside.std(correction=0).clamp(min=max(1e-8, 1e-4 * float(to_go[alive].abs().mean())))
    return torch.where(alive, (found - inside.mean()) / spread, 0.0)


def rewards_to_go(rewards: Tensor, discount: float) -> Tensor:
    """Return the discounted sum of the rewards from each time step on, ``[T, ...]``."""
    result, later = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for step in range(len(rewards) - 1, -1, -1):
        later = rewards[step] + discount * later
        result[step] = later
    return result


def linear_values(played: Trajectories, to_go: Tensor) -> Tensor:
    """Return the value of every state, ``[T + 1, M, E]``, by least squares over the discounted rewards to go.

    The features are the state, its square, and the first three powers of time.

    Args:
        played: the episodes.
        to_go: the discounted rewards to go, ``[T, M, E]``.
    """
    states = played.states.flatten(3).double()
    time = torch.arange(len(states), device=states.device, dtype=torch.float64).view(-1, 1, 1, 1) / 100
    time = time.expand(*states.shape[:3], 1)
    features = torch.cat([states, states.square(), time, time**2, time**3, torch.ones_like(time)], dim=-1)
    inside = features[:-1][played.alive]
    targets = to_go[played.alive].double()
    gram = inside.T @ inside
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, inside.T @ targets)
    return (features @ weights).to(played.rewards)


def generalized_advantages(played: Trajectories, values: Tensor, discount: float, trace: float) -> Tensor:
    """Return the generalized advantage estimates, ``[T, M, E]``, zero after an episode's end.

    A time limit counts as an end, for it bounds the returns that values are fitted to.

    Args:
        played: the episodes.
        values: the value of every state, ``[T + 1, M, E]``.
        discount, trace: see `advantages`.
    """
    alive = played.alive.to(values)
    goes_on = torch.cat([alive[1:], torch.zeros_like(alive[:1])])
    errors = (played.rewards + discount * values[1:] * goes_on - values[:-1]) * alive
    # After an episode's end there is nothing to sum, since the errors there are zero.
    return rewards_to_go(errors, discount * trace)
