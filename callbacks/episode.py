"""An animation of a freshly taught policy in the real environment."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gtn_lightning.callbacks.figures import save_animation
from gtn_lightning.data import EnvironmentData
from gtn_lightning.errors import first_line
from gtn_lightning.lightning import Callback, LightningModule, Trainer, rank_zero_warn
from gtn_lightning.rl import Policies, film
from gtn_lightning.tasks import Control

MOST_FRAMES = 150
MOST_BYTES = 1_000_000
WIDTH, LEAST_WIDTH = 360, 90
COLORS = 64
CAPTION_HEIGHT, FONT_SIZE = 18, 11
LAST_FRAME = 1500
"""Milliseconds for which the last frame is shown, before the animation begins anew."""

LEAST_DURATION = 20
"""Milliseconds of a frame; browsers show shorter ones more slowly."""


class EpisodeAnimation(Callback):
    """Teaches one fresh policy and draws an episode of it in the environment, with the most probable actions.

    The animation is written to ``<run folder>/pictures/episode.gif`` and to W&B at the end of ``fit``, with an episode
    of the validation split, and to ``test_episode.gif`` after a test, with one of the test split. It plays in the
    environment's own time. Its time steps are not part of ``train/env_steps``.

    There is a warning in its place if the environment does not draw itself or a library for it is missing.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import EpisodeAnimation
        >>> trainer = pl.Trainer(max_steps=600, callbacks=[EpisodeAnimation()])
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an episode of the validation split."""
        self._draw(trainer, pl_module, "episode", "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an episode of the test split."""
        self._draw(trainer, pl_module, "test_episode", "test")

    def _draw(self, trainer: Trainer, gtn: Any, name: str, split: str) -> None:
        data = getattr(trainer, "datamodule", None)
        task = gtn.task
        if not trainer.is_global_zero or not isinstance(data, EnvironmentData) or not isinstance(task, Control):
            return
        with torch.inference_mode(False), torch.no_grad():
            (policy,) = gtn.fresh_learner("animation", split)
            policies = Policies([policy])

            def act(states: Tensor) -> Tensor:
                return task.act(policies(states)[..., : task.actions], None)

            like = next(iter(policy.params.values())).detach()
            try:
                played = film(data.batch(split, 0), act, like, MOST_FRAMES)
            except Exception as error:  # of any kind: libraries that the environment needs, its own code
                rank_zero_warn(f"no animation of an episode: {first_line(error)}")  # it says what to install
                return
        taught = f"{type(policy.learner.module).__name__} taught in {gtn.inner_loop.steps} steps"
        captions = [f"{taught}, time step {step}" for step in played.steps[:-1]]
        captions.append(f"{taught}, return {played.total:.4g}")
        seconds = [(later - step) / played.rate for step, later in zip(played.steps, played.steps[1:], strict=False)]
        durations = [max(round(1000 * each), LEAST_DURATION) for each in seconds]
        gif = animated(played.frames, captions, [*durations, LAST_FRAME])
        save_animation(trainer, gif, name, trainer.global_step)


def animated(frames: Sequence[NDArray[Any]], captions: Sequence[str], durations: Sequence[int]) -> bytes:
    """Return frames as a GIF below `MOST_BYTES`, small enough for it if possible.

    Args:
        frames: ``[H, W, 3]``, uint8.
        captions: a line below each.
        durations: of each in milliseconds.
    """
    width = WIDTH
    while True:
        images = [_captioned(frame, caption, width) for frame, caption in zip(frames, captions, strict=True)]
        content = BytesIO()
        images[0].save(
            content,
            "GIF",
            save_all=True,
            append_images=images[1:],
            duration=list(durations),
            loop=0,
            optimize=True,
        )
        if content.tell() < MOST_BYTES or width // 2 < LEAST_WIDTH:
            return content.getvalue()
        width //= 2


def _captioned(frame: NDArray[Any], caption: str, width: int) -> Image.Image:
    """Return a frame of a width, of a few colors, with a line below it."""
    picture = Image.fromarray(frame)
    size = width, max(round(width * picture.height / picture.width), 1)
    page = Image.new("RGB", (width, size[1] + CAPTION_HEIGHT), "white")
    page.paste(picture.resize(size, Image.Resampling.BOX if width < picture.width else Image.Resampling.NEAREST))
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(page).text((width / 2, size[1] + 2), caption, "black", font, anchor="ma")
    return page.quantize(COLORS, dither=Image.Dither.NONE)
