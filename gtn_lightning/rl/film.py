"""An episode as a sequence of pictures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.rl.environments import Act, Environments, Episodes

RATE = 30.0
"""Time steps per second of an environment that does not say it."""


class Film(NamedTuple):
    """The pictures of an episode."""

    frames: list[NDArray[np.uint8]]
    """Pictures ``[H, W, 3]`` of evenly spaced states, and of the last."""
    steps: list[int]
    """The time step of each, from 0."""
    total: float
    """The episode's return."""
    rate: float
    """Time steps per second."""


def film(batch: Episodes, act: Act, like: Tensor, at_most: int) -> Film:
    """Let a policy act in one episode that is drawn.

    Its time steps are not counted by the batch's environments.

    Args:
        batch: episodes of the same environment, of which the seed and the normalization are used.
        act: see `Episodes.play`.
        like: see `Episodes.play`.
        at_most: largest number of pictures, without the last.

    Raises:
        RecipeError: if the environment does not draw itself.
        Exception: of any kind, from the environment's own code, for instance if a library for drawing is missing.
    """
    env_id = batch.environments.env_id
    metadata = batch.environments.copies(1).metadata
    if "rgb_array" not in metadata.get("render_modes", ()):
        raise RecipeError(f"{env_id} does not draw itself, it has no render mode rgb_array")
    environments = Environments(env_id, "sync", render_mode="rgb_array")
    copies: Any = environments.copies(1)
    frames: list[NDArray[np.uint8]] = []
    every, number = 1, 0

    def draw() -> None:
        (frame,) = copies.render()
        frames.append(np.array(frame, dtype=np.uint8))

    def watched(states: Tensor) -> Tensor:
        nonlocal every, number
        if number % every == 0:
            if len(frames) == at_most:  # the length of an episode is not known before
                del frames[1::2]
                every *= 2
            if number % every == 0:
                draw()
        number += 1
        return act(states)

    try:
        with _without_window():
            played = Episodes(environments, 1, batch.seed, batch.center, batch.scale).play(watched, 1, like)
            draw()
    finally:
        environments.close()
    steps = [*range(0, number, every), number]
    return Film(frames, steps, float(played.returns), float(metadata.get("render_fps", RATE)))


@contextmanager
def _without_window() -> Iterator[None]:
    """Let pygame look for no display, about which its library would print an error where there is none."""
    before = os.environ.get("SDL_VIDEODRIVER")
    os.environ["SDL_VIDEODRIVER"] = before or "dummy"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SDL_VIDEODRIVER"]
