"""Real data for agents: episodes in an environment."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from gtn_lightning.data.batches import Stream, batches_trained_on, from_the_start
from gtn_lightning.data.reports import Counts, Documents, Normalizes
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import LightningDataModule, TrainerFn
from gtn_lightning.randomness import keyed_generator, keyed_seed
from gtn_lightning.rl.environments import Environments, Episodes

SEEDS = {"val": 0, "test": 2**29, "train": 2**30, "normalization": 2**31}
"""The first seed of each split's episodes; the ranges do not overlap.

They are below 2**32, which NumPy's older generators need.
"""

MEASURED_EPISODES = 64
"""Episodes of random actions by which states are normalized."""


class EnvironmentData(LightningDataModule, Counts, Normalizes, Documents):
    """Episodes in an environment of gymnasium, with disjoint ranges of seeds for the three splits.

    Each batch is an `Episodes`, in which a task lets its learners act. States are normalized: ``center`` is subtracted,
    and the difference divided by ``scale``.

    Args:
        env_id: gymnasium's name of the environment, such as ``CartPole-v1``.
        episodes: episodes of each policy for a meta-loss.
        eval_episodes: episodes of each learner in validation and testing.
        center: see above, for flat states; None for zero if ``scale`` is given, else for the mean of the states that
            random actions reach.
        scale: see above, for flat states; None for the standard deviation of these states.
        vectorization: how several copies run: ``vector_entry_point``, the environment's own vector form; ``sync``, one
            after the other; ``async``, in processes; ``auto`` for the first if there is one, else ``sync``.
        seed: seed of the training episodes.

    Attributes:
        shape: shape of a state.
        actions: number of discrete actions, or of values of a continuous action.
        continuous: whether actions are continuous.

    Raises:
        RecipeError: if a value is out of range; from ``setup``, if the environment cannot be used.

    Examples:
        >>> from gtn_lightning.data import EnvironmentData
        >>> data = EnvironmentData("CartPole-v1", scale=[2.4, 2.0, 0.21, 2.0])
        >>> data.setup()
        >>> data.shape, data.actions
        ((4,), 2)
    """

    def __init__(
        self,
        env_id: str,
        episodes: int = 8,
        eval_episodes: int = 20,
        center: list[float] | None = None,
        scale: list[float] | None = None,
        vectorization: Literal["auto", "vector_entry_point", "sync", "async"] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("episodes", episodes, 1), ("eval_episodes", eval_episodes, 1), ("seed", seed, 0)):
            if value < least:
                raise RecipeError(f"data.{name} must be at least {least}, got {value}")
        for name, values, above in (("center", center, -math.inf), ("scale", scale, 0.0)):
            if values is not None and not all(above < value < math.inf for value in values):
                expected = "finite numbers" if name == "center" else "finite numbers above 0"
                raise RecipeError(f"data.{name} must be {expected}, got {values}")
        self.env_id = env_id
        self.episodes = episodes
        self.eval_episodes = eval_episodes
        self.center = center
        self.scale = scale
        self.vectorization = vectorization
        self.seed = seed
        self._environments: Environments | None = None

    def setup(self, stage: str | None = None) -> None:
        """Make the environment and measure its states, at the first call."""
        if self._environments is not None:
            return
        environments = Environments(self.env_id, self.vectorization)
        for name, count in (("episodes", self.episodes), ("eval_episodes", self.eval_episodes)):
            if count > environments.most:
                raise RecipeError(
                    f"data.{name} must be at most {environments.most} with vectorization "
                    f"{environments.vectorization}, got {count}"
                )
        for name, given in (("center", self.center), ("scale", self.scale)):
            if given is not None and torch.tensor(given).shape != environments.shape:
                raise RecipeError(
                    f"data.{name} must have the shape of a state, {list(environments.shape)}, got {given}"
                )
        center, scale = (None if given is None else torch.tensor(given) for given in (self.center, self.scale))
        if center is None and scale is not None:
            center = torch.zeros(environments.shape)
        if center is None or scale is None:
            mean, std = _measured(environments)
            center, scale = mean if center is None else center, std if scale is None else scale
        self._center, self._scale = center, scale
        self._environments = environments

    @property
    def environments(self) -> Environments:
        """The copies of the environment, after ``setup``."""
        if self._environments is None:
            raise AttributeError(f"{type(self).__name__} has not made its environment yet: call setup() first")
        return self._environments

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state."""
        return self.environments.shape

    @property
    def actions(self) -> int:
        """Number of discrete actions, or of values of a continuous action."""
        return self.environments.actions

    @property
    def continuous(self) -> bool:
        """Whether actions are continuous."""
        return self.environments.continuous

    def batch(self, split: str, number: int) -> Episodes:
        """Return a batch of a split: ``train``, ``val`` or ``test``, which have one each but for ``train``."""
        # Copies that run one by one have seeds one after the other.
        block = keyed_seed(self.seed, "episodes", number) % (2**31 - 2**30 - 2**20) if split == "train" else 0
        count = self.episodes if split == "train" else self.eval_episodes
        return Episodes(self.environments, count, SEEDS[split] + block, self._center, self._scale)

    def train_dataloader(self) -> "EpisodeStream":
        """Return the endless stream of training batches of this rank; the whole run is one Lightning epoch."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return EpisodeStream(self, 1)
        length = trainer.max_steps * trainer.accumulate_grad_batches
        if length <= 0:
            raise RecipeError("trainer.max_steps must be given with EnvironmentData, whose batches have no end")
        return EpisodeStream(self, length, trainer.global_rank, trainer.world_size, lambda: batches_trained_on(trainer))

    def val_dataloader(self) -> "OneBatch":
        """Return the validation batch, the same on every rank."""
        return OneBatch(self.batch("val", 0))

    def test_dataloader(self) -> "OneBatch":
        """Return the test batch, the same on every rank."""
        return OneBatch(self.batch("test", 0))

    def predict_dataloader(self) -> Any:
        """Return the module's own loader, since it predicts synthetic data, one batch per inner step."""
        assert self.trainer is not None
        return self.trainer.lightning_module.predict_dataloader()

    def document(self) -> dict[str, Any]:
        """Return the environment's name, and what its observations are."""
        return {"source": f"gymnasium, {self.env_id}", "license": None, "raw": "observations of the environment"}

    def normalization(self) -> dict[str, Tensor]:
        """Return what is subtracted from a state and what it is then divided by, by the names in exported files."""
        return {"normalize_center": self._center, "normalize_scale": self._scale}

    def counts(self) -> dict[str, int]:
        """Return ``env_steps``, the number of time steps that this process has taken in the environment."""
        return {"env_steps": 0 if self._environments is None else self._environments.steps}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of time steps of all processes."""
        steps = torch.tensor(self.counts()["env_steps"])
        if self.trainer is not None:
            strategy = self.trainer.strategy
            steps = strategy.reduce(steps.to(strategy.root_device), reduce_op="sum")
        return {"env_steps": int(steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a run was interrupted."""
        steps = state_dict.get("env_steps")
        if not isinstance(steps, int) or steps < 0:
            raise RecipeError(
                f"the checkpoint is damaged: its number of time steps is {steps!r}, expected a whole number"
            )
        first = self.trainer is None or self.trainer.is_global_zero
        self.environments.steps = steps if first else 0

    def teardown(self, stage: str) -> None:
        """Close the environments."""
        if self._environments is not None:
            self._environments.close()

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.env_id}, {self.episodes} episodes per policy and meta-step"


class EpisodeStream(Stream):
    """The endless training episodes of one process.

    Args:
        data: makes the batches.
        length: see `Stream`.
        rank: index of this process.
        world_size: number of processes that share the stream.
        position: see `Stream`.
    """

    def __init__(
        self,
        data: EnvironmentData,
        length: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = from_the_start,
    ) -> None:
        super().__init__(length, position)
        self.data = data
        self.rank = rank
        self.world_size = world_size

    def batch(self, position: int) -> Episodes:
        """Return the batch at a position of this rank's stream."""
        return self.data.batch("train", position * self.world_size + self.rank)


class OneBatch:
    """The only batch of a split.

    Args:
        batch: the batch.
    """

    def __init__(self, batch: Episodes) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Episodes]:
        yield self.batch

    def __len__(self) -> int:
        return 1


def _measured(environments: Environments) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the states that random actions reach, the same in every run."""
    generator = keyed_generator(0, "normalization")
    shape, zero = environments.shape, torch.zeros(())
    episodes = Episodes(environments, MEASURED_EPISODES, SEEDS["normalization"], torch.zeros(shape), torch.ones(shape))

    def act(states: Tensor) -> Tensor:
        count = states.shape[:2]
        if environments.continuous:
            return torch.rand(*count, environments.actions, generator=generator) * 2 - 1
        return torch.randint(environments.actions, tuple(count), generator=generator)

    played = episodes.play(act, 1, zero)
    seen = played.states[:-1][played.alive]
    std = seen.std(0, correction=0)
    environments.close()  # as many copies will not be needed again
    return seen.mean(0), torch.where(std > 1e-6, std, 1.0)
