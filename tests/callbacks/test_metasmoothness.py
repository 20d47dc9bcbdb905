"""The metasmoothness that a run logs."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from torch import Tensor

from gtn_lightning.callbacks import Metasmoothness
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from tests.tiny import make_gtn, make_trainer, same, with_generator


class Watch(pl.Callback):
    """Keeps what is logged, by the meta-step after which it changes."""

    def __init__(self) -> None:
        self.logged: dict[int, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        found = trainer.logged_metrics.get("train/metasmoothness")
        if found is not None and float(found) not in self.logged.values():
            self.logged[trainer.global_step] = float(found)


def run(folder: Path, *callbacks: pl.Callback) -> tuple[dict[int, float], dict[str, Tensor]]:
    watch, gtn = Watch(), make_gtn(**with_generator())
    make_trainer(folder, max_steps=4, callbacks=[*callbacks, watch]).fit(gtn, DigitsData(32))
    return watch.logged, gtn.state_dict()


def test_it_is_logged_every_so_many_meta_steps_and_changes_nothing(tmp_path: Path) -> None:
    logged, state = run(tmp_path, Metasmoothness(every_n_steps=2, directions=2))
    assert logged.keys() == {2, 4}
    assert all(0.2 < value <= 1 for value in logged.values())
    nothing, expected = run(tmp_path)
    assert nothing == {}
    assert same(state, expected)


def test_it_is_a_function_of_the_seed(tmp_path: Path) -> None:
    first, _ = run(tmp_path, Metasmoothness(every_n_steps=4))
    again, _ = run(tmp_path, Metasmoothness(every_n_steps=4))
    assert first == again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"directions": 0}, "directions must be at least 1, got 0"),
        ({"step": 0.0}, "step must be above 0 and finite, got 0.0"),
    ],
)
def test_values_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Metasmoothness(**arguments)
