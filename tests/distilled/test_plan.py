"""What `gtn distil` finds out of data, and the recipe that it chooses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from gtn_lightning.cli.app import GTNCLI
from gtn_lightning.cli.policy import policy_for
from gtn_lightning.cli.recipes import packaged_recipes, read_command_line
from gtn_lightning.cli.signals import Signals
from gtn_lightning.distilled.facts import Facts, facts_of
from gtn_lightning.distilled.plan import plan, sizes
from gtn_lightning.errors import RecipeError
from gtn_lightning.randomness import keyed_generator

MNIST = Facts("mnist", "images", "classes", (1, 28, 28), 10, 59_000, {"class_path": "DigitsData", "init_args": {}})
TABLE = Facts("table", "rows", "numbers", (7,), 2, 400, {"class_path": "DigitsData", "init_args": {}})


@pytest.mark.parametrize(
    ("facts", "per_class", "expected"),
    [
        (MNIST, None, (12, 30, 360)),
        (MNIST, 1, (12, 10, 10)),
        (MNIST, 10, (10, 10, 100)),
        (MNIST, 32, (16, 20, 320)),
        (MNIST, 50, (10, 50, 500)),
        (TABLE, None, (12, 11, 132)),
        (TABLE, 20, (10, 2, 20)),
    ],
)
def test_every_step_has_equally_many_samples_of_every_class(
    facts: Facts, per_class: int | None, expected: tuple[int, int, int]
) -> None:
    steps, batch, pool = sizes(facts, per_class)
    assert (steps, batch, pool) == expected
    assert pool == (steps * batch if pool > batch else batch)
    if facts.predicts == "classes":
        assert batch % facts.outputs == 0


class Built(GTNCLI):
    """Builds what a recipe says, and stops before the run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.mark.parametrize(
    ("facts", "per_class"),
    [
        (MNIST, None),
        (MNIST, 1),
        (MNIST, 10),
        (Facts("photos", "images", "classes", (3, 32, 32), 4, 500, MNIST.data), None),
        (Facts("icons", "images", "classes", (3, 9, 11), 2, 500, MNIST.data), None),
        (TABLE, None),
        (Facts("table", "rows", "classes", (7,), 3, 90, MNIST.data), None),
    ],
)
def test_the_recipe_builds_and_all_its_learners_fit_the_data(
    facts: Facts, per_class: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gtn"])
    Path("recipe.yaml").write_text(yaml.safe_dump(plan(facts, 100, per_class, "cpu")))
    line = read_command_line(["fit", "--config", "recipe.yaml"], strict=True)
    model: Any = Built(line, policy_for(line, None, strict=True, trust=[]), Signals()).model
    batch = model.synthetic_batch(0)
    assert model.teacher.samples == sizes(facts, per_class)[2]
    for family in model.learners.families().values():
        outputs = family.sample(keyed_generator(0))(batch["inputs"])
        assert outputs.shape == (len(batch["inputs"]), facts.outputs)


def pictures(folder: Path, count: int, size: tuple[int, int], mode: str = "RGB", grow: int = 0) -> None:
    """Write image files of one class."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        width, height = size[0] + grow * number, size[1]
        shape = (height, width) if mode == "L" else (height, width, 3)
        Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{number}.png")


def test_a_folder_of_photographs_of_several_sizes(tmp_path: Path) -> None:
    pictures(tmp_path / "pets" / "cat", 20, (40, 30), grow=1)
    pictures(tmp_path / "pets" / "dog", 20, (50, 30))
    facts = facts_of(str(tmp_path / "pets"))
    assert (facts.name, facts.kind, facts.shape, facts.outputs) == ("pets", "images", (3, 32, 32), 2)
    assert facts.data["init_args"] == {
        "path": str(tmp_path / "pets"), "val_size": 8, "test_size": 8, "size": 32, "batch_size": 24, "seed": 0,
    }  # fmt: skip
    assert facts.train == 24


def test_a_folder_with_a_test_split_of_small_gray_images(tmp_path: Path) -> None:
    for split, count in (("train", 15), ("test", 5)):
        for name in "ab":
            pictures(tmp_path / "letters" / split / name, count, (12, 10), "L")
    facts = facts_of(str(tmp_path / "letters"), size=None)
    assert facts.shape == (1, 10, 12)
    assert "test_size" not in facts.data["init_args"]
    assert "size" not in facts.data["init_args"]
    assert facts_of(str(tmp_path / "letters"), size=8).shape == (1, 8, 8)


def test_tables_of_classes_and_of_numbers(tmp_path: Path) -> None:
    assert facts_of("wine").text() == "106 rows of 13, 3 classes"
    (tmp_path / "prices.csv").write_text("area,price\n" + "\n".join(f"{n},{n / 3}" for n in range(50)))
    facts = facts_of(str(tmp_path / "prices.csv"), target="price")
    assert (facts.name, facts.predicts, facts.shape, facts.outputs, facts.train) == ("prices", "numbers", (1,), 1, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "wine", "size": 8}, "--size is for images, and wine is a table"),
        ({"path": ".", "target": "x"}, "--target is for tables, and . is none"),
        ({"path": "nothing.csv"}, "nothing.csv"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        facts_of(**arguments)


def test_digits_distil_has_the_learners_and_rates_of_the_plan() -> None:
    recipe = yaml.safe_load(packaged_recipes()["digits_distil"].read_text())["model"]
    planned = plan(facts_of("digits"), 1000)["model"]
    assert recipe["learners"] == planned["learners"]
    assert recipe["inner_optimizer"] == planned["inner_optimizer"]
    assert recipe["teacher"] == planned["teacher"]


def test_more_synthetic_samples_than_real_ones_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"--images-per-class must be at most 5900, .* got 6000"):
        plan(MNIST, 100, 6000)
    with pytest.raises(RecipeError, match="--images-per-class must be at least 1, got 0"):
        plan(MNIST, 100, 0)
