"""Tasks of agents: policies that are taught by synthetic data and scored by their returns in an environment."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric

from gtn_lightning.baselines import RandomDataBaseline
from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.fields import Batch, Field, Fields
from gtn_lightning.inner_loop import Buffers, Functional, LossFn
from gtn_lightning.rl import BASELINES, Episodes, Policies, advantages, features_of
from gtn_lightning.task import Baseline, BaselineSetting, Images, Points, Task, TaskMetric, Taught

MOST_FEATURES = 4000
"""Features of a state of which a value function is a linear function; the cost of the fit grows with their cube."""


class Control(Task):
    """A task of agents: a learner is a policy, from states to logits of actions or to means of continuous ones.

    After the inner loop the policies act in the environment, each in episodes of its own. The meta-loss is minus the
    mean return. Its gradient with respect to a policy is the policy gradient: that of the clipped surrogate of Schulman
    et al. (arXiv 1707.06347, equation 7) over time steps drawn from the episodes, with the ratio of an action's
    probabilities under the policy and under the one that acted. In the first update from a set of episodes both are
    the same policy, and the gradient is that of Williams (1992); ``updates`` of the outer gradient allows more. No
    episode is differentiated or compiled.

    Args:
        shape: shape of a state, such as ``[4]``.
        actions: number of discrete actions, or of values of a continuous action.
        continuous: whether actions are continuous: the policy's outputs are means, in units in which -1 and 1 are the
            bounds of an action.
        deviation: standard deviation of a continuous action around its mean, in the same units.
        temperature: what logits of discrete actions are divided by when a policy acts; below 1, a policy keeps to what
            it prefers, so that also untrained ones try something for a whole episode.
        samples: number of time steps per policy, drawn with replacement, for the meta-loss.
        discount: factor of a reward one time step later.
        trace: lambda of generalized advantage estimation.
        clip: how far the ratio may differ from 1 before its gradient is cut off.
        advantage: what is subtracted from returns, ``linear``, ``polynomial`` or ``time``; see
            `gtn_lightning.rl.advantages`.
        plotted: names of two dimensions of flat states to draw, and their places, as in ``{angle: 2, speed: 3}``; None
            for the plane of the principal components.

    Raises:
        RecipeError: if a value is out of range.
    """

    signal: str
    """Name of the field that teaches the states' actions."""
    discrete_only: bool = False
    """Whether actions must be discrete."""

    def __init__(
        self,
        shape: tuple[int, ...],
        actions: int,
        continuous: bool = False,
        deviation: float = 0.5,
        temperature: float = 1.0,
        samples: int = 512,
        discount: float = 0.99,
        trace: float = 0.95,
        clip: float = 0.2,
        advantage: Literal["linear", "polynomial", "time"] = "linear",
        plotted: dict[str, int] | None = None,
    ) -> None:
        name = type(self).__name__
        if continuous and self.discrete_only:
            raise RecipeError(f"{name}: actions must be discrete, got continuous ones: use BehaviorDistillation")
        least_actions = 1 if continuous else 2
        for key, value, least in (("actions", actions, least_actions), ("samples", samples, 1)):
            if value < least:
                raise RecipeError(f"{name}: {key} must be at least {least}, got {value}")
        for key, share in (("discount", discount), ("trace", trace)):
            if not 0 <= share <= 1:
                raise RecipeError(f"{name}: {key} must be between 0 and 1, got {share}")
        for key, width in (("deviation", deviation), ("temperature", temperature), ("clip", clip)):
            if not width > 0:
                raise RecipeError(f"{name}: {key} must be above 0, got {width}")
        if advantage not in BASELINES:
            raise RecipeError(f"{name}: advantage must be one of {', '.join(BASELINES)}, got {advantage!r}")
        self.shape = tuple(shape)
        if features_of(math.prod(self.shape), advantage) > MOST_FEATURES:
            raise RecipeError(
                f"{name}: advantage {advantage} takes states of fewer numbers, got {list(shape)}: use "
                f"{'time' if advantage == 'linear' else 'linear or time'}"
            )
        if plotted is not None and (
            len(plotted) != 2 or len(self.shape) != 1 or not all(0 <= place < shape[0] for place in plotted.values())
        ):
            raise RecipeError(f"{name}: plotted must name two dimensions of flat states {list(shape)}, got {plotted}")
        self.actions = actions
        self.continuous = continuous
        self.deviation = deviation
        self.temperature = temperature
        self.samples = samples
        self.discount = discount
        self.trace = trace
        self.clip = clip
        self.advantage = advantage
        self.plotted = plotted

    @property
    def outputs(self) -> int:
        """Number of the learner's outputs, of which the first are the policy's."""
        return self.actions

    @property
    def fields(self) -> Fields:
        """States, and a number for each action, or for each value of a continuous one."""
        return {"states": Field("real", self.shape), self.signal: Field("real", (self.actions,))}

    @property
    def real_fields(self) -> None:
        """None: real data is an environment to act in."""
        return

    def meta_steps(self, steps: int) -> list[int]:
        """Return the last step."""
        return [steps]

    def experience(
        self, taught: Sequence[Taught], batch: Any, generator: torch.Generator, training: bool
    ) -> Sequence[Sequence[Any]]:
        """Let all policies act at once; see the base class.

        Returns:
            For each policy, in training its states, actions, advantages, log-probabilities of the actions, and mean
            return, a number; else the returns of its episodes with the most probable actions, and with sampled ones.
        """
        assert isinstance(batch, Episodes)
        at_once = max(batch.environments.most // batch.count, 1)
        if not training and len(taught) > at_once:
            parts = [taught[first : first + at_once] for first in range(0, len(taught), at_once)]
            return [each for part in parts for each in self.experience(part, batch, generator, training)]
        policies = Policies(taught)
        like = next(iter(taught[0].params.values())).detach()

        def play(sampled: bool) -> Any:
            chosen = partial(self.act, generator=generator if sampled else None)
            return batch.play(lambda states: chosen(policies(states)[..., : self.actions]), len(taught), like)

        if not training:
            greedy, sampled = play(sampled=False).returns, play(sampled=True).returns
            return list(zip(greedy.unbind(), sampled.unbind(), strict=True))
        played = play(sampled=True)
        weights = advantages(played, self.advantage, self.discount, self.trace)
        experience = []
        for number, each in enumerate(taught):
            inside = played.alive[:, number].nonzero()
            step, episode = inside[torch.randint(len(inside), (self.samples,), generator=generator)].unbind(1)
            states, actions = played.states[step, number, episode], played.actions[step, number, episode]
            outputs, _ = each.learner(each.params, each.buffers, states, training=False)
            experience.append(
                (
                    states,
                    actions,
                    weights[step, number, episode],
                    self.log_probabilities(outputs[:, : self.actions], actions),
                    played.returns[number].mean(),
                )
            )
        return experience

    def act(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return actions: the most probable ones, or sampled ones if there is a generator.

        Args:
            outputs: the policy's outputs, ``[..., actions]``.
            generator: a CPU generator.

        Returns:
            Discrete actions, int64 ``[...]``, or continuous ones, ``[..., actions]``.
        """
        outputs = in_full_precision(outputs)
        if self.continuous:
            if generator is None:
                return outputs
            return outputs + self.deviation * torch.randn(outputs.shape, generator=generator).to(outputs)
        if generator is None:
            return outputs.argmax(-1)
        drawn = torch.rand(*outputs.shape[:-1], 1, generator=generator).to(outputs)
        return ((outputs / self.temperature).softmax(-1).cumsum(-1) < drawn).sum(-1).clamp(max=self.actions - 1)

    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probability of actions, ``[B]``, for continuous ones up to a constant."""
        outputs = in_full_precision(outputs)
        if self.continuous:
            return -((actions - outputs) / self.deviation).square().sum(-1) / 2
        return -F.cross_entropy(outputs / self.temperature, actions, reduction="none")

    def meta_loss(self, learner: Functional) -> LossFn:
        """Return minus the mean return, with the policy gradient; see the class."""

        def loss(
            params: Mapping[str, Tensor],
            buffers: Buffers,
            states: Tensor,
            actions: Tensor,
            weights: Tensor,
            before: Tensor,
            mean_return: Tensor,
        ) -> tuple[Tensor, Buffers]:
            outputs, _ = learner(params, buffers, states, training=False)
            ratios = (self.log_probabilities(outputs[:, : self.actions], actions) - before).exp()
            clipped = ratios.clamp(1 - self.clip, 1 + self.clip)
            gain = torch.minimum((ratios - 1) * weights, (clipped - 1) * weights)
            return -gain.mean() - mean_return, buffers

        return loss

    def metrics(self) -> list[TaskMetric]:
        """Return the mean return with the most probable actions, and with sampled ones."""
        mean = partial(MeanMetric, sync_on_compute=False)
        return [TaskMetric("return", mean), TaskMetric("return_sampled", mean)]

    def score(
        self,
        learner: Functional,
        params: Mapping[str, Tensor],
        buffers: Buffers,
        batch: Sequence[Any],
        metrics: Sequence[Metric],
    ) -> Tensor:
        """Score a policy by the returns of its episodes; see the base class."""
        for metric, returns in zip(metrics, batch, strict=False):
            metric.update(returns)
        loss: Tensor = -batch[0].mean()
        return loss

    def shown(self, batch: Batch) -> Images | Points:
        """Return states as points, colored by the best action, or by the first value of a continuous one.

        States ``[C, H, W]`` are images, in rows by the best action.
        """
        states, signal = batch["states"].flatten(1), batch[self.signal]
        values = signal[:, 0] if self.continuous else signal.argmax(1)
        if len(self.shape) == 3:
            return Images(batch["states"], None if self.continuous else values, "action")
        if self.plotted is None:
            return Points(states, values, noun="action")
        first, second = self.plotted
        return Points(states[:, list(self.plotted.values())], values, (first, second), "action")

    def baseline(self, setting: BaselineSetting) -> Baseline | None:
        """Return policies that random samples have taught."""
        return RandomDataBaseline(self, setting)

    def check_batch(self, batch: Any, where: str) -> None:
        """Raise ``RecipeError`` unless the batch has episodes of an environment with this task's spaces."""
        if not isinstance(batch, Episodes):
            raise RecipeError(
                f"{where} must have episodes to act in, got a {type(batch).__name__}: use EnvironmentData"
            )
        made = batch.environments
        for key, own, its in (
            ("shape", list(self.shape), list(made.shape)),
            ("actions", self.actions, made.actions),
            ("continuous", self.continuous, made.continuous),
        ):
            if own != its:
                raise RecipeError(f"model.task.{key} is {own} but {made.env_id} has {its}: make them agree")

    def check(self, learner: nn.Module, batch: Any) -> None:
        """Raise ``RecipeError`` if the learner is no policy for the environment."""
        self.check_batch(batch, "the data")
        parameter = next(learner.parameters(), torch.zeros(()))
        states = torch.randn(2, *self.shape, dtype=parameter.dtype, device=parameter.device)
        name = type(learner).__name__
        try:
            with torch.no_grad():
                outputs = learner(states)
        except Exception as error:
            raise RecipeError(
                f"the learner {name} cannot take states of shape {list(self.shape)}: {first_line(error)}: make its "
                "layers fit states of this shape"
            ) from error
        if not isinstance(outputs, Tensor) or outputs.shape != (2, self.outputs):
            given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise RecipeError(
                f"the learner {name} returns {given} for 2 states, expected [2, {self.outputs}]: make its outputs "
                "agree with the task's"
            )
        if not _answers_alone(learner, states):
            raise RecipeError(
                f"the learner {name} answers a state differently in a batch with others, which are those of one time "
                "step when a policy acts, and of many when it learns: use norm layer, group or none"
            )


def _answers_alone(learner: nn.Module, states: Tensor) -> bool:
    """Return whether a learner in evaluation mode answers a state alone as in a batch with others."""
    learner.eval()
    with torch.no_grad():
        together = learner(states)[:1]
        try:
            alone = learner(states[:1])
        except ValueError:  # batch normalization, which refuses a single state
            return False
    return torch.allclose(together, alone, rtol=1e-2, atol=1e-3)


def in_full_precision(outputs: Tensor) -> Tensor:
    """Return half-precision outputs as float32: ratios of probabilities need it."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


class BehaviorDistillation(Control):
    """Policies are taught by states with actions, as in behavior cloning.

    The inner loss is the cross-entropy to the softmax of the learned logits ``actions``, or for continuous actions the
    squared error to the learned ``actions``. Lupu et al. (arXiv 2406.15042) meta-learn such data by evolution
    strategies, Wilhelm and Ventura (arXiv 2508.09283) by the meta-gradient.

    Args: see `Control`.

    Examples:
        >>> from gtn_lightning.tasks import BehaviorDistillation
        >>> task = BehaviorDistillation(shape=(4,), actions=2)
        >>> {name: field.sample_shape for name, field in task.fields.items()}
        {'states': (4,), 'actions': (2,)}
    """

    signal = "actions"

    @property
    def exported_loss(self) -> str | None:
        """The squared error of continuous actions, or the cross-entropy, for which `exported` makes probabilities."""
        return "mse_loss" if self.continuous else "cross_entropy"

    def exported(self, batch: Batch) -> Batch:
        """Return states and continuous actions unchanged, and logits of discrete actions as probabilities."""
        return batch if self.continuous else {**batch, "actions": batch["actions"].softmax(-1)}

    def inner_loss(self, learner: Functional) -> LossFn:
        """Return the loss of imitation on synthetic states."""

        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, states: Tensor, actions: Tensor
        ) -> tuple[Tensor, Buffers]:
            outputs, buffers = learner(params, buffers, states)
            if self.continuous:
                return F.mse_loss(outputs, actions), buffers
            return F.cross_entropy(outputs, actions.softmax(-1)), buffers

        return loss


class ContextualBandit(Control):
    """Policies are taught by states with a reward for every action, by the exact policy gradient.

    The inner loss is minus the expected reward, ``-mean(sum_a p(a | s) r(s, a))``. Liesen et al. (arXiv 2406.12589)
    meta-learn such bandits by evolution strategies.

    Args: see `Control`; actions must be discrete.

    Raises:
        RecipeError: if a value is out of range, or actions are continuous.

    Examples:
        >>> from gtn_lightning.tasks import ContextualBandit
        >>> task = ContextualBandit(shape=(4,), actions=2)
        >>> {name: field.sample_shape for name, field in task.fields.items()}
        {'states': (4,), 'rewards': (2,)}
    """

    signal = "rewards"
    discrete_only = True

    def inner_loss(self, learner: Functional) -> LossFn:
        """Return minus the expected reward in synthetic states."""

        def loss(
            params: Mapping[str, Tensor], buffers: Buffers, states: Tensor, rewards: Tensor
        ) -> tuple[Tensor, Buffers]:
            outputs, buffers = learner(params, buffers, states)
            return -(outputs.softmax(-1) * rewards).sum(-1).mean(), buffers

        return loss
