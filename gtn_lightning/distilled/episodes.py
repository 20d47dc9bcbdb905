"""Returns of policies that are trained on synthetic data, in the real environment."""

import torch
from torch import Tensor, nn

from gtn_lightning.distilled.file import DistilledSet
from gtn_lightning.errors import RecipeError, one_line

EPISODES = 5
"""Episodes that a policy is scored on."""


class Play:
    """Plays a policy in the environment that synthetic data was made for.

    Discrete actions are the greedy ones, continuous actions are clipped to the environment's bounds.

    Args:
        data: the synthetic data.

    Raises:
        RecipeError: if gymnasium is not installed, or has no such environment.
    """

    def __init__(self, data: DistilledSet) -> None:
        try:
            import gymnasium
        except ModuleNotFoundError as error:
            raise RecipeError(
                "policies are scored in their environment, which needs gymnasium: pip install 'gtn-lightning[rl]'"
            ) from error
        arguments = (data.card.data or {}).get("init_args") or {}
        self.name = str(arguments.get("env_id"))
        # A name with a module imports it, and the file may be a stranger's.
        if self.name not in gymnasium.registry:
            raise RecipeError(f"gymnasium has no environment {self.name!r} by itself: the file cannot be scored here")
        try:
            self._environment = gymnasium.make(self.name)
        except Exception as error:
            raise RecipeError(f"gymnasium cannot make {self.name!r}: {one_line(error)}") from error
        self._data = data

    def __call__(self, network: nn.Module) -> float:
        """Return the mean return of a network's episodes, which are the same for all networks."""
        network.eval()
        returns = []
        for episode in range(EPISODES):
            observation, _ = self._environment.reset(seed=2**29 + episode)
            total, over = 0.0, False
            while not over:
                with torch.no_grad():
                    output = network(self._data.prepare(torch.as_tensor(observation)[None]))[0]
                observation, reward, terminated, truncated, _ = self._environment.step(self._action(output))
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        return sum(returns) / len(returns)

    def _action(self, output: Tensor) -> object:
        if self._data.card.loss == "cross_entropy":
            return int(output.argmax())
        space = self._environment.action_space
        return output.double().numpy().clip(space.low, space.high).astype(space.dtype)  # type: ignore[attr-defined]
