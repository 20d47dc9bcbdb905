"""What a learner reconstructs: the picture, where it is written, what it refuses."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from gtn_lightning.callbacks import Reconstructions
from gtn_lightning.callbacks.reconstructions import draw_reconstructions
from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import Autoencoder, Fixed
from gtn_lightning.tasks import Autoencoding
from gtn_lightning.teachers import FreeTensors
from tests.tiny import BATCH, STEPS, make_gtn, make_trainer, same


def autoencoding(shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, Any]:
    torch.manual_seed(0)
    task = Autoencoding(shape)
    return {
        "teacher": FreeTensors(dict(task.fields), STEPS * BATCH),
        "curriculum": Full(STEPS, BATCH),
        "learners": Fixed(partial(Autoencoder, shape, [6], 3)),
        "task": task,
    }


def test_each_row_is_an_image_and_what_becomes_of_it() -> None:
    real = torch.linspace(0, 1, 3)[:, None, None, None].expand(-1, 1, 4, 4)
    figure = draw_reconstructions(real, {5: torch.zeros_like(real), 20: real}, "title")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["real", "5", "20"]
    columns, rows = axes.get_xticks().round().astype(int), axes.get_yticks().round().astype(int)
    shown: Any = axes.images[0].get_array()
    expected = [[0, 0, 0], [0.5, 0, 0.5], [1, 0, 1]]
    np.testing.assert_allclose(shown[np.ix_(rows, columns)][..., 0], expected, atol=0.02)


def test_a_run_draws_the_same_images_each_time_and_trains_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Tensor, list[int], str]] = []

    def watched(real: Tensor, columns: dict[int, Tensor], title: str) -> Figure:
        drawn.append((real, list(columns), title))
        return draw_reconstructions(real, columns, title)

    monkeypatch.setattr("gtn_lightning.callbacks.reconstructions.draw_reconstructions", watched)
    states = []
    for callbacks in ([Reconstructions(every_n_validations=2, images=4)], []):
        gtn = make_gtn(**autoencoding(), evaluation={"steps": [0]})
        make_trainer(tmp_path, max_steps=4, val_check_interval=1, callbacks=callbacks).fit(gtn, DigitsData(32))
        states.append(gtn.state_dict())
    assert same(*states)
    (first, steps, _), (second, _, title) = drawn
    assert first.shape == (4, 1, 8, 8)
    assert torch.equal(first, second)
    assert steps == [0, STEPS]
    assert title == "What a new Autoencoder reconstructs after 4 meta-steps"
    assert Image.open(tmp_path / "pictures" / "reconstructions.png").format == "PNG"


def test_rows_of_a_table_are_not_drawn(tmp_path: Path) -> None:
    gtn = make_gtn(**autoencoding((5,)))
    loader: Any = DataLoader(list(torch.randn(20, 5)), batch_size=20)  # type: ignore[arg-type]
    make_trainer(tmp_path, val_check_interval=2, callbacks=[Reconstructions()]).fit(gtn, loader, loader)
    assert not list(tmp_path.iterdir())


def test_learners_that_do_not_reconstruct(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[Reconstructions()])
    with pytest.raises(RecipeError, match=r"model\.task must be Autoencoding, got Classification"):
        trainer.fit(make_gtn(), DigitsData(32))


@pytest.mark.parametrize("options", [{"every_n_validations": 0}, {"images": 0}])
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=f"Reconstructions.{next(iter(options))} must be at least 1, got 0"):
        Reconstructions(**options)
