"""Episodes that are drawn."""

import os

import numpy as np
import pytest
import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.rl import Environments, Episodes, film
from tests.rl import lights

ZERO = torch.zeros(())


def brighter(states: Tensor) -> Tensor:
    """Name the half of the image that is brighter, which is always right."""
    left, right = states.flatten(0, 1)[:, 0].split(lights.SIZE // 2, dim=-1)
    return (right.sum((1, 2)) > left.sum((1, 2))).long().view(states.shape[:2])


def episodes(env_id: str) -> Episodes:
    made = Environments(env_id)
    return Episodes(made, 4, 7, torch.zeros(made.shape), torch.ones(made.shape))


@pytest.mark.parametrize(
    ("at_most", "steps"), [(20, [*range(11)]), (10, [*range(11)]), (9, [0, 2, 4, 6, 8, 10]), (4, [0, 4, 8, 10])]
)
def test_frames_are_evenly_spaced_and_the_last_is_among_them(at_most: int, steps: list[int]) -> None:
    found = film(episodes(lights.NAME), brighter, ZERO, at_most)
    assert found.steps == steps
    assert (found.total, found.rate) == (10.0, 10.0)
    whole = film(episodes(lights.NAME), brighter, ZERO, 100)
    for step, frame in zip(found.steps, found.frames, strict=True):
        assert frame.shape == (lights.SIZE, lights.SIZE, 3)
        np.testing.assert_array_equal(frame, whole.frames[step])
    assert len({frame.tobytes() for frame in whole.frames}) == 2


def test_its_time_steps_are_not_counted() -> None:
    batch = episodes(lights.NAME)
    film(batch, brighter, ZERO, 5)
    assert batch.environments.steps == 0


def test_an_environment_that_does_not_draw_itself() -> None:
    with pytest.raises(RecipeError, match="gtn-dark does not draw itself, it has no render mode rgb_array"):
        film(episodes(lights.DARK), brighter, ZERO, 5)


def test_no_display_is_looked_for(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    found = film(episodes("CartPole-v1"), lambda states: (states[..., 2] > 0).long(), ZERO, 50)
    assert found.total > 10
    assert len(found.frames) == len(found.steps) > 10
    assert "SDL_VIDEODRIVER" not in os.environ
    assert capfd.readouterr() == ("", "")
