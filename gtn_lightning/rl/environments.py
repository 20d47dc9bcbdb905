"""Episodes of several policies in gymnasium's vector environments."""

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError, first_line

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

VECTORIZATIONS = ("auto", "vector_entry_point", "sync", "async")
"""Ways to run several copies of an environment; ``auto`` uses the environment's own, if it has one, else ``sync``."""

MOST_COPIES, MOST_PROCESSES = 4096, 64
"""Largest number of copies at once, in one process and as processes of their own."""

Array = np.ndarray[Any, Any]

Act = Callable[[Tensor], Tensor]
"""A policy: takes normalized states ``[members, episodes, *shape]``, returns actions ``[members, episodes, ...]``."""


class Trajectories(NamedTuple):
    """What several policies saw and did, one episode in each copy of an environment.

    M policies, E episodes of each, T time steps, the longest episode's length.
    """

    states: Tensor
    """Normalized states, ``[T + 1, M, E, *shape]``, the last of each episode among them."""
    actions: Tensor
    """Actions, ``[T, M, E, ...]``, as the policies returned them."""
    rewards: Tensor
    """Rewards, ``[T, M, E]``, zero after an episode's end."""
    alive: Tensor
    """Whether the time step belongs to the episode, Boolean ``[T, M, E]``."""

    @property
    def returns(self) -> Tensor:
        """The sum of rewards of each episode, ``[M, E]``."""
        return self.rewards.sum(0)


class Environments:
    """Copies of an environment, made when they are needed, and the number of time steps taken in them.

    Args:
        env_id: gymnasium's name of the environment, such as ``CartPole-v1``.
        vectorization: one of `VECTORIZATIONS`.
        render_mode: gymnasium's name of a form in which the copies draw themselves, such as ``rgb_array``.

    Attributes:
        shape: shape of a state.
        actions: number of discrete actions, or of values of a continuous action.
        continuous: whether actions are continuous.
        most: largest number of copies at once.
        limit: largest number of time steps of an episode.
        steps: number of time steps taken within episodes so far.

    Raises:
        RecipeError: if gymnasium is not installed, has no such environment, or its spaces are not supported.
    """

    def __init__(self, env_id: str, vectorization: str = "auto", render_mode: str | None = None) -> None:
        if vectorization not in VECTORIZATIONS:
            raise RecipeError(f"data.vectorization must be one of {', '.join(VECTORIZATIONS)}, got {vectorization!r}")
        if importlib.util.find_spec("gymnasium") is None:
            raise RecipeError("data: EnvironmentData needs gymnasium: pip install 'gtn-lightning[rl]'")
        if ":" in env_id:
            raise RecipeError(
                f"data.env_id must be the name of a registered environment, got {env_id!r}: import the module that "
                "registers it before, for instance by a class of the module that the recipe names"
            )
        import gymnasium

        try:
            self._spec = gymnasium.spec(env_id)
        except gymnasium.error.Error as error:
            raise RecipeError(
                f"data.env_id must be an environment of gymnasium, got {env_id!r}: {first_line(error)}"
            ) from error
        self.env_id = env_id
        own = self._spec.vector_entry_point is not None
        if vectorization == "vector_entry_point" and not own:
            raise RecipeError(f"data.vectorization: {env_id} has no vector_entry_point: use sync or async")
        self.vectorization = ("vector_entry_point" if own else "sync") if vectorization == "auto" else vectorization
        # An environment that cannot draw itself may not take the argument.
        self._options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        self.most = MOST_PROCESSES if self.vectorization == "async" else MOST_COPIES
        self.steps = 0
        self._made: dict[int, VectorEnv[Any, Any, Any]] = {}
        try:
            first = self.copies(1)
        except Exception as error:  # of any kind: libraries that the environment needs, its own code
            raise RecipeError(f"data.env_id: {env_id} cannot be made: {first_line(error)}") from error
        mode = first.metadata.get("autoreset_mode")
        if mode != gymnasium.vector.AutoresetMode.NEXT_STEP:
            raise RecipeError(
                f"data.vectorization: copies of {env_id} must reset in the time step after an end (NEXT_STEP), got "
                f"{mode}: use sync"
            )
        state, action = first.single_observation_space, first.single_action_space
        if not isinstance(state, gymnasium.spaces.Box):
            raise RecipeError(f"data.env_id: states of {env_id} must be numbers (a Box), got {type(state).__name__}")
        self.shape = tuple(state.shape)
        self.continuous = isinstance(action, gymnasium.spaces.Box)
        if isinstance(action, gymnasium.spaces.Discrete) and action.start == 0:
            self.actions = int(action.n)
        elif isinstance(action, gymnasium.spaces.Box) and len(action.shape) == 1 and action.is_bounded():
            self.actions = int(action.shape[0])
            self._low, self._high = action.low, action.high
        else:
            raise RecipeError(
                f"data.env_id: actions of {env_id} must be one choice counted from 0 (Discrete) or a vector within "
                f"bounds (Box), got {action}"
            )
        if self._spec.max_episode_steps is None:
            raise RecipeError(f"data.env_id: episodes of {env_id} have no time limit: register it with one")
        self.limit = int(self._spec.max_episode_steps)

    def copies(self, count: int) -> "VectorEnv[Any, Any, Any]":
        """Return so many copies as one vector environment, kept for later calls."""
        if count > self.most:
            raise RecipeError(
                f"data.episodes times model.population must be at most {self.most} with vectorization "
                f"{self.vectorization}, got {count}"
            )
        if count not in self._made:
            import gymnasium

            self._made[count] = gymnasium.make_vec(
                self._spec, num_envs=count, vectorization_mode=self.vectorization, **self._options
            )
        return self._made[count]

    def close(self) -> None:
        """Close all copies."""
        for made in self._made.values():
            made.close()
        self._made.clear()

    def native(self, actions: Tensor) -> Array:
        """Return actions ``[N]`` or ``[N, actions]`` as the environment takes them.

        Continuous actions are clipped to -1 and 1, which become the lower and the upper bound.
        """
        numbers = actions.cpu().numpy()
        if not self.continuous:
            return numbers
        share = (numbers.clip(-1, 1) + 1) / 2
        native: Array = (self._low + share * (self._high - self._low)).astype(self._low.dtype)
        return native


class Episodes:
    """A batch of real data for agents: episodes to act in. Its ``len`` is their number per policy.

    Args:
        environments: the copies of the environment.
        count: number of episodes E of each policy.
        seed: seed of the initial states and of the environment's random numbers.
        center: what is subtracted from a state, ``[*shape]``.
        scale: what it is then divided by.
    """

    # Not a dataclass or a named tuple: Lightning would take it apart to move its tensors.
    def __init__(self, environments: Environments, count: int, seed: int, center: Tensor, scale: Tensor) -> None:
        self.environments = environments
        self.count = count
        self.seed = seed
        self.center = center
        self.scale = scale

    def __len__(self) -> int:
        return self.count

    def play(self, act: Act, members: int, like: Tensor) -> Trajectories:
        """Let policies act, each in one episode per copy, until all episodes have ended.

        After an episode's end, gymnasium resets the copy by itself; these time steps are masked.

        Args:
            act: returns the actions of all policies.
            members: number of policies M.
            like: a tensor of the policies' type and device.
        """
        copies = self.environments.copies(members * self.count)
        shape = (members, self.count)
        native, _ = copies.reset(seed=self.seed)
        alive = np.ones(members * self.count, dtype=bool)
        states, rewards, was_alive = [self._states(native, shape, like)], [], []
        actions: list[Tensor] = []
        while alive.any() and len(actions) < self.environments.limit:
            chosen = act(states[-1])
            native, reward, ended = _step(copies, self.environments.native(chosen.flatten(0, 1)), native, alive)
            states.append(self._states(native, shape, like))
            actions.append(chosen)
            rewards.append(reward * alive)
            was_alive.append(alive)
            self.environments.steps += int(alive.sum())
            alive = alive & ~ended
        numbers = torch.from_numpy(np.stack(rewards)).view(-1, *shape).to(like)
        mask = torch.from_numpy(np.stack(was_alive)).view(-1, *shape).to(like.device)
        return Trajectories(torch.stack(states), torch.stack(actions), numbers, mask)

    def _states(self, native: Any, shape: tuple[int, int], like: Tensor) -> Tensor:
        states = torch.from_numpy(np.asarray(native)).float().view(*shape, *self.environments.shape)
        return ((states - self.center) / self.scale).to(like)


def _step(
    copies: "VectorEnv[Any, Any, Any]", actions: Array, states: Array, alive: Array
) -> tuple[Array, Array, Array]:
    """Take a time step in all copies whose episode goes on; return states, rewards, and whether an episode ended.

    Copies that run one by one stand still after their episode. Others run on; what they return is masked.
    """
    import gymnasium

    if not isinstance(copies, gymnasium.vector.SyncVectorEnv):
        native, rewards, terminated, truncated, _ = copies.step(actions)
        return native, rewards, terminated | truncated
    states, rewards, ended = states.copy(), np.zeros(len(alive)), np.zeros(len(alive), dtype=bool)
    for number in alive.nonzero()[0]:
        states[number], rewards[number], terminated, truncated, _ = copies.envs[number].step(actions[number])
        ended[number] = terminated or truncated
    return states, rewards, ended
