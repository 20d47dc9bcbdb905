"""A tiny environment whose states are images, which draws itself without further libraries."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

SIZE = 6
NAME, DARK = "gtn-lights", "gtn-dark"
"""Names of the environments of this module."""


class Lights(gymnasium.Env[NDArray[np.uint8], int]):
    """The left or the right half of an image is bright; a reward for every action that names it, 0 or 1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.side = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        reward = float(action == self.side)
        return self._next(), reward, False, False, {}

    def render(self) -> Any:
        return np.repeat(self._image()[0][..., None], 3, axis=-1)

    def _next(self) -> NDArray[np.uint8]:
        self.side = int(self.np_random.integers(2))
        noise = self.np_random.integers(0, 50, (1, SIZE, SIZE)).astype(np.uint8)
        return self._image() + noise

    def _image(self) -> NDArray[np.uint8]:
        image = np.zeros((1, SIZE, SIZE), np.uint8)
        image[..., self.side * SIZE // 2 : (self.side + 1) * SIZE // 2] = 200
        return image


class Dark(Lights):
    """The same without a way to draw itself."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


for name, made in ((NAME, Lights), (DARK, Dark)):
    gymnasium.register(name, made, max_episode_steps=10)
