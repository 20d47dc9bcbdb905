"""Synthetic states of CartPole as carts with poles."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gtn_lightning.callbacks import PolePicture
from gtn_lightning.callbacks.poles import COLUMNS, ROWS, TRACK, draw_poles
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.tasks import ContextualBandit
from tests.tasks.test_control import BATCH, STEPS, make_data, make_gtn
from tests.tiny import make_trainer


def arrows(axes: Any) -> list[tuple[Any, Any]]:
    """The arrows of a cell, each as its beginning and its end."""
    return [(text.xyann, text.xy) for text in axes.texts]


def test_poles_lean_and_arrows_point_as_the_states_say() -> None:
    states = torch.tensor([[0.0, 1.0, 0.3, 0.0], [TRACK + 1, 0.0, -0.3, -2.0]])
    right, left = draw_poles(states, torch.tensor([1, 0]), "title").axes
    for cell, angle in ((right, 0.3), (left, -0.3)):
        (pole,) = (line for line in cell.lines if line.get_color() == "peru")
        np.testing.assert_allclose(pole.get_xydata()[1], [math.sin(angle), math.cos(angle)])
    velocity, push = arrows(right)
    assert velocity[1][0] > velocity[0][0]
    assert push[1][0] > push[0][0] > 0
    turning, push = arrows(left)
    assert turning[1][0] < turning[0][0]  # it falls to the left
    assert turning[1][1] < turning[0][1]
    assert push[1][0] < push[0][0] < 0
    assert [cell.lines[-1].get_marker() for cell in (right, left)] == ["o", ">"]
    assert [cell.get_title() for cell in (right, left)] == ["17°", "-17°"]


@pytest.mark.parametrize("count", [0, 5, 40])
def test_any_number_of_states(count: int) -> None:
    figure = draw_poles(torch.randn(count, 4), None, "title")
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == min(count, ROWS * COLUMNS)


def test_states_are_drawn_in_the_environments_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(
        "gtn_lightning.callbacks.poles.save_figure", lambda trainer, figure, name, step: drawn.append(figure)
    )
    gtn = make_gtn(ContextualBandit((4,), 2, samples=8), evaluation=Evaluation(learners=1))
    data = make_data(scale=[1.0, 1.0, 0.1, 1.0], center=[0.0, 0.0, 0.2, 0.0])
    make_trainer(tmp_path, max_steps=1, callbacks=[PolePicture()]).fit(gtn, data)
    (figure,) = drawn
    rows = torch.cat([gtn.synthetic_batch(step)["states"] for step in range(STEPS)])
    assert len(rows) == STEPS * BATCH == 12
    degrees = [f"{math.degrees(angle):.0f}°" for angle in (0.1 * rows[:, 2] + 0.2).sort().values]
    assert [cell.get_title() for cell in figure.axes] == degrees
