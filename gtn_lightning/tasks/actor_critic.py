"""Policies that are taught in a synthetic environment."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, Fields
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.rl.transitions import Transitions
from gtn_lightning.task import BaselineSetting, Points
from gtn_lightning.tasks.control import Control

GRADIENTS = ("expected", "sampled")
"""Forms of the policy gradient, see `ActorCritic`."""


class ActorCritic(Control):
    """Policies are taught by acting in an environment that the teacher makes, by an advantage actor-critic.

    In each inner step the learner acts for ``horizon`` time steps from each of the teacher's first states, in the
    transitions that the teacher's weights define; see `Transitions`. The random numbers by which actions are drawn are
    a field of the batch, so that an inner loop is a function of its batches. The inner loss has the policy gradient,
    the squared error of the learner's own value, and the entropy. Two forms of the policy gradient differ in which
    actions it takes into account:

    - ``expected``: in every state all actions, by the transitions' answer to each: the gradient of
      ``sum_a p(a | s) q(s, a)`` with the constant ``q(s, a) = reward + discount * value(next state)`` (Allen et al.,
      arXiv 1709.00503; Ciosek and Whiteson, arXiv 1706.05374). The value's target is the constant
      ``sum_a p(a | s) q(s, a)``. Actions are drawn only for the next state.
    - ``sampled``: the drawn actions alone, as in A2C (Mnih et al., arXiv 1602.01783), with the constant advantage of
      the bootstrapped return of all further time steps over the value. The meta-gradient is very noisy.

    A learner has one more output than there are actions, for the value of the state. Actions must be discrete.

    Args:
        shape, actions, samples, discount, trace, advantage, plotted: see `Control`; ``discount`` also applies in the
            synthetic environment.
        horizon: number of time steps in the synthetic environment per inner step.
        hidden: number of hidden units of the transitions.
        gradient: ``expected`` or ``sampled``, see above.
        value_scale: factor by which the learner's last output becomes the value. Small, so that the arbitrary values of
            an untrained learner do not outweigh the rewards.
        value_weight: weight of the squared error of the value.
        entropy_weight: weight of the entropy.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> from gtn_lightning.tasks import ActorCritic
        >>> list(ActorCritic(shape=(4,), actions=2, horizon=5).fields)
        ['states', 'draws', 'dynamics']
    """

    signal = "dynamics"
    discrete_only = True

    def __init__(
        self,
        shape: tuple[int, ...],
        actions: int,
        samples: int = 512,
        discount: float = 0.99,
        trace: float = 0.95,
        advantage: Literal["linear", "polynomial", "time"] = "linear",
        plotted: dict[str, int] | None = None,
        horizon: int = 5,
        hidden: int = 32,
        gradient: Literal["expected", "sampled"] = "expected",
        value_scale: float = 0.03,
        value_weight: float = 0.15,
        entropy_weight: float = 0.01,
    ) -> None:
        super().__init__(
            shape,
            actions,
            samples=samples,
            discount=discount,
            trace=trace,
            advantage=advantage,
            plotted=plotted,
        )
        for key, value in (("horizon", horizon), ("hidden", hidden)):
            if value < 1:
                raise RecipeError(f"ActorCritic: {key} must be at least 1, got {value}")
        if gradient not in GRADIENTS:
            raise RecipeError(f"ActorCritic: gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        for key, weight in (
            ("value_scale", value_scale),
            ("value_weight", value_weight),
            ("entropy_weight", entropy_weight),
        ):
            if not weight >= 0:
                raise RecipeError(f"ActorCritic: {key} must be at least 0, got {weight}")
        if len(self.shape) != 1:
            raise RecipeError(f"ActorCritic: shape must be that of flat states, got {list(shape)}")
        self.horizon = horizon
        self.hidden = hidden
        self.gradient = gradient
        self.value_scale = value_scale
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight
        self._transitions = Transitions(self.shape[0], actions, hidden)

    @property
    def outputs(self) -> int:
        """A logit for each action, and the value of the state."""
        return self.actions + 1

    @property
    def fields(self) -> Fields:
        """First states ``[B, *shape]``, random numbers ``[B, horizon]``, and the transitions' weights, a single row."""
        return {
            "states": Field("real", self.shape),
            "draws": Field("real", (self.horizon,)),
            "dynamics": Field("real", (self._transitions.size,)),
        }

    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the actor-critic loss in the synthetic environment."""
        return self._expected(learner) if self.gradient == "expected" else self._sampled(learner)

    def _answer(
        self, learner: Functional, params: Mapping[str, Tensor], buffers: Buffers, states: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, actions]`` and values ``[B]``."""
        outputs, _ = learner(params, buffers, states)
        return outputs[:, : self.actions], self.value_scale * outputs[:, self.actions]

    def _drawn(self, shares: Tensor, draws: Tensor) -> Tensor:
        """Return the actions that uniform random numbers draw, one-hot ``[B, actions]``."""
        below = shares.detach().cumsum(-1)[:, :-1] < draws[:, None]
        return F.one_hot(below.sum(-1), self.actions).to(shares.dtype)

    def _expected(self, learner: Functional) -> LossFn:
        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, states: Tensor, draws: Tensor, dynamics: Tensor
        ) -> tuple[Tensor, Buffers]:
            choices = torch.eye(self.actions).to(states)
            gains, errors, entropies = [], [], []
            for step in range(self.horizon):
                logits, value = self._answer(learner, params, buffers, states)
                shares, logs = logits.softmax(-1), logits.log_softmax(-1)
                count = len(states)
                following, rewards = self._transitions(
                    dynamics[0], states.repeat(self.actions, 1), choices.repeat_interleave(count, 0)
                )
                _, later = self._answer(learner, params, buffers, following)
                worth = (rewards + self.discount * later).view(self.actions, count).T.detach()
                gain = (shares * worth).sum(-1)
                gains.append(gain)
                errors.append(gain.detach() - value)
                entropies.append(-(shares * logs).sum(-1))
                chosen = self._drawn(shares, draws[:, step])
                states = (chosen.T[..., None] * following.view(self.actions, count, -1)).sum(0)
            error = torch.stack(errors).square().mean()
            entropy = torch.stack(entropies).mean()
            return -torch.stack(gains).mean() + self.value_weight * error - self.entropy_weight * entropy, buffers

        return loss

    def _sampled(self, learner: Functional) -> LossFn:
        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, states: Tensor, draws: Tensor, dynamics: Tensor
        ) -> tuple[Tensor, Buffers]:
            gains, values, rewards, entropies = [], [], [], []
            for step in range(self.horizon):
                logits, value = self._answer(learner, params, buffers, states)
                shares, logs = logits.softmax(-1), logits.log_softmax(-1)
                chosen = self._drawn(shares, draws[:, step])
                gains.append((logs * chosen).sum(-1))
                entropies.append(-(shares * logs).sum(-1))
                values.append(value)
                states, reward = self._transitions(dynamics[0], states, chosen)
                rewards.append(reward)
            _, last = self._answer(learner, params, buffers, states)
            later = last.detach()
            returns: list[Tensor] = []
            for reward in reversed(rewards):
                later = reward + self.discount * later
                returns.insert(0, later)
            advantage = torch.stack(returns) - torch.stack(values)
            policy = -(torch.stack(gains) * advantage.detach()).mean()
            entropy = torch.stack(entropies).mean()
            return policy + self.value_weight * advantage.square().mean() - self.entropy_weight * entropy, buffers

        return loss

    def baseline(self, setting: BaselineSetting) -> None:
        """Return None: random samples make no environment."""
        return

    def shown(self, batch: Batch) -> Points:
        """Return the first states as points, colored by the reward of the first action in them."""
        states = batch["states"].flatten(1)
        first = torch.zeros(len(states), self.actions).to(states)
        first[:, 0] = 1
        _, rewards = self._transitions(batch["dynamics"][0], states, first)
        if self.plotted is None:
            return Points(states, rewards)
        x, y = self.plotted
        return Points(states[:, list(self.plotted.values())], rewards, (x, y))
