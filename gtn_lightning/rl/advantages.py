"""Advantages: by how much an action was better than what was to be expected in its state."""

import math
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from gtn_lightning.rl.environments import Trajectories

BASELINES = ("linear", "polynomial", "time")
"""``linear``: generalized advantage estimation (Schulman et al., arXiv 1506.02438) with a linear value function of
states and time (Duan et al., arXiv 1604.06778, appendix), fitted to the returns of the same episodes; ``polynomial``:
the same with a polynomial of the state, for few numbers per state; ``time``: rewards to go minus their mean over all
episodes at the same time step."""

DEGREE = 4
"""Degree of the polynomial."""

RIDGE = 1e-5
"""Relative regularization of the linear fit."""


def advantages(played: Trajectories, baseline: str, discount: float, trace: float) -> Tensor:
    """Return the advantage of every action, standardized over all time steps within episodes.

    There is no critic that is trained along with the teacher: all baselines depend on these episodes alone, so that
    meta-training has no further state, and resumes and runs in several processes as without.

    Args:
        played: the episodes of all policies.
        baseline: one of `BASELINES`.
        discount: factor of a reward one time step later, gamma.
        trace: lambda of generalized advantage estimation, not for ``time``.

    Returns:
        ``[T, M, E]``, zero after an episode's end.
    """
    alive = played.alive
    to_go = rewards_to_go(played.rewards, discount)
    if baseline == "time":
        mean = (to_go * alive).sum((1, 2), keepdim=True) / alive.sum((1, 2), keepdim=True).clamp(min=1)
        found = to_go - mean
    else:
        values = polynomial_values if baseline == "polynomial" else linear_values
        found = generalized_advantages(played, values(played, to_go, discount), discount, trace)
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


def features_of(numbers: int, baseline: str) -> int:
    """Return the number of features of a state of so many numbers, time excepted; 0 for ``time``."""
    return {"linear": 2 * numbers, "polynomial": 2 * math.comb(numbers + DEGREE, DEGREE) - 1, "time": 0}[baseline]


def linear_values(played: Trajectories, to_go: Tensor, discount: float) -> Tensor:
    """Return the value of every state, ``[T + 1, M, E]``, by least squares over the discounted rewards to go.

    The features are the state, its square, and the first three powers of time.

    Args:
        played: the episodes.
        to_go: the discounted rewards to go, ``[T, M, E]``.
        discount: see `advantages`; not used.
    """
    states = played.states.flatten(3).double()
    return _fitted(played, to_go, [states, states.square()])


def polynomial_values(played: Trajectories, to_go: Tensor, discount: float) -> Tensor:
    """Return the value of every state, as `linear_values` does, with a polynomial of the state.

    The features are the first three powers of time, all products of up to `DEGREE` of the state's numbers, and these
    products times ``discount`` to the power of the time steps left. With them, values can fall off towards a time limit
    as discounted returns do, within the last ``1 / (1 - discount)`` time steps.

    Args:
        played, to_go, discount: see `linear_values`.
    """
    products = torch.cat(_products(played.states.flatten(3).double(), DEGREE), dim=-1)
    left = torch.arange(len(products) - 1, -1, -1, device=products.device, dtype=torch.float64).view(-1, 1, 1, 1)
    return _fitted(
        played, to_go, [products, products * discount**left, (discount**left).expand(*products.shape[:3], 1)]
    )


def _fitted(played: Trajectories, to_go: Tensor, features: list[Tensor]) -> Tensor:
    """Return the best linear function of features ``[T + 1, M, E, ...]`` and powers of time."""
    like = features[0]
    time = torch.arange(len(like), device=like.device, dtype=torch.float64).view(-1, 1, 1, 1) / 100
    time = time.expand(*like.shape[:3], 1)
    every = torch.cat([*features, time, time**2, time**3, torch.ones_like(time)], dim=-1)
    inside = every[:-1][played.alive]
    targets = to_go[played.alive].double()
    gram = inside.T @ inside
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, inside.T @ targets)
    return (every @ weights).to(played.rewards)


def _products(states: Tensor, degree: int) -> list[Tensor]:
    """Return all products of 1 to ``degree`` numbers of a state, by their number."""
    places = range(states.shape[-1])
    return [
        torch.stack([states[..., list(chosen)].prod(-1) for chosen in combinations_with_replacement(places, count)], -1)
        for count in range(1, degree + 1)
    ]


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
