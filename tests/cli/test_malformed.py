"""Recipes with something wrong in them: one line and exit code 2, or a run; never anything else."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gtn_lightning.cli import main
from tests.fuzzing import FUZZ, mutate

PINNED = [
    *(
        "--trainer.max_steps=1",
        "--model.inner_loop.steps=2",
        "--model.evaluation.learners=1",
        "--model.evaluation.real_rates=[0.1]",
    ),
    *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"),
]
"""What keeps a recipe short that happens to be valid."""

KEPT = {"default_root_dir", "max_steps", "devices", "num_nodes", "max_epochs", "max_time", "fast_dev_run"}
"""Keys that decide about processes and time, not about right and wrong."""

WRONG = (None, True, -1, 0, 3, 0.5, math.nan, "text", "", [], {}, ["text"], {"class_path": "Nothing"})


NAMES = ("digits", "cartpole", "digits_autoencoder")


def recipe(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "recipes" / f"{name}.yaml").read_text())
    content["trainer"]["logger"] = False
    content["trainer"]["callbacks"] = [{"class_path": "TeacherCheckpoint"}]
    if name == "cartpole":
        content["model"]["population"] = 2
        content["data"]["init_args"] |= {"episodes": 2, "eval_episodes": 2}
    return content


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything in a recipe."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key not in KEPT:
            yield (*path, key)
            yield from places(item, (*path, key))


PLACES = {name: list(places(recipe(name))) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@FUZZ
@given(st.data(), st.sampled_from(["replace", "replace", "leave out", "rename"]), st.sampled_from(WRONG))
def test_a_mutated_recipe_runs_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    data: st.DataObject,
    way: str,
    value: Any,
) -> None:
    content = recipe(name)
    mutate(content, data.draw(st.sampled_from(PLACES[name])), way, value)
    folder = tmp_path_factory.mktemp("recipe")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["gtn"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    capfd.readouterr()
    code = main(["fit", "--config", "recipe.yaml", *PINNED])
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("gtn: ")]
    assert "Traceback" not in err
    if code == 0:
        assert lines == []
        return
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("gtn: error: ")
    assert not (folder / "runs").exists(), "a refused recipe left something"
