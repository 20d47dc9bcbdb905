"""Episodes of freshly taught policies as animations."""

import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning import Callback
from pytorch_lightning.loggers import WandbLogger

from gtn_lightning.callbacks import EpisodeAnimation, PolePicture, episode
from gtn_lightning.callbacks.episode import CAPTION_HEIGHT, LAST_FRAME, WIDTH, animated
from gtn_lightning.data import DigitsData
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.tasks import BehaviorDistillation
from tests import tiny
from tests.rl import lights
from tests.tasks.test_control import make_data, make_gtn


def run(folder: Path, env_id: str, callback: Callback | None = None, **options: Any) -> None:
    """Fit and test a tiny teacher of agents."""
    changes: dict[str, Any] = {"evaluation": Evaluation(learners=1)}
    if env_id != "CartPole-v1":
        task = BehaviorDistillation((1, lights.SIZE, lights.SIZE), 2, samples=8)
        changes |= {"task": task, "learners": Fixed(partial(MLP, task.shape, 2, [4]))}
    gtn, data = make_gtn(**changes), make_data(env_id=env_id)
    trainer = tiny.make_trainer(folder, max_steps=1, callbacks=[callback or EpisodeAnimation()], **options)
    trainer.fit(gtn, data)
    trainer.test(gtn, data, verbose=False)
    assert trainer.global_step == 1


def test_fit_and_test_leave_an_animation_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = WandbLogger(save_dir=tmp_path, project="test", offline=True)
    run(tmp_path, lights.NAME, logger=logger)
    logged = {path.name.rsplit("_", 2)[0]: path for path in tmp_path.glob("wandb/offline-run-*/**/*.gif")}
    logger.experiment.finish()
    for name in ("episode", "test_episode"):
        file = tmp_path / "pictures" / f"{name}.gif"
        picture: Any = Image.open(file)
        assert (picture.format, picture.size) == ("GIF", (WIDTH, WIDTH + CAPTION_HEIGHT))
        durations = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            durations.append(picture.info["duration"])
        # Ten time steps in one second; equal frames may be one.
        assert sum(durations) == 1000 + LAST_FRAME
        assert logged[name].read_bytes() == file.read_bytes()


def test_the_run_goes_on_without_a_picture_of_an_environment_that_draws_none(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no animation of an episode: gtn-dark does not draw itself"):
        run(tmp_path, lights.DARK)
    assert not (tmp_path / "pictures").exists()


def test_the_run_goes_on_without_pygame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.warns(UserWarning, match=r"no animation of an episode: pygame is not installed, run `pip install"):
        run(tmp_path, "CartPole-v1")
    assert not (tmp_path / "pictures").exists()


def test_nothing_is_drawn_of_other_environments_and_tasks(tmp_path: Path) -> None:
    run(tmp_path, lights.NAME, PolePicture())
    trainer = tiny.make_trainer(tmp_path, max_steps=1, callbacks=[EpisodeAnimation(), PolePicture()])
    trainer.fit(tiny.make_gtn(), DigitsData(64))
    assert not (tmp_path / "pictures").exists()


def test_a_large_animation_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode, "MOST_BYTES", 60_000)
    noise = np.random.default_rng(0).integers(0, 255, (2, 200, 400, 3), np.uint8)
    content = animated(list(noise), ["noise"] * 2, [50] * 2)
    picture = Image.open(io.BytesIO(content))
    assert len(content) < 60_000
    assert picture.size == (WIDTH // 2, WIDTH // 4 + CAPTION_HEIGHT)
