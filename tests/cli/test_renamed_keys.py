"""Former names of keys, in recipes and on the command line."""

import pytest

from gtn_lightning.cli.recipes import read_command
from gtn_lightning.errors import RecipeError


def test_a_recipe_may_use_former_names(tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model:\n  inner_steps: 3\n  inner_loop: {mode: remat}\n  eval_learners: 1\n  optimizer: {class_path: SGD}\n"
        "trainer:\n  callbacks:\n    - class_path: gtn_lightning.callbacks.TeacherCheckpoint\n"
        "      init_args: {if_unwritable: go_on}\n"
    )

    (recipe,) = read_command(["fit", "--config", str(path)]).line.recipes

    assert recipe.content["model"] == {
        "inner_loop": {"steps": 3, "mode": "remat"},
        "evaluation": {"learners": 1},
        "inner_optimizer": {"class_path": "SGD"},
    }
    assert recipe.content["trainer"]["callbacks"][0]["init_args"] == {"on_write_error": "warn"}
    told = capsys.readouterr().err
    assert f"{path}: model.inner_steps is called model.inner_loop.steps now\n" in told
    assert told.count("\n") == 4


def test_references_to_former_names_are_followed(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model:\n  inner_steps: 3\n  curriculum: {init_args: {steps: '${...inner_steps}', noise: '${..mode}'}}\n"
    )

    (recipe,) = read_command(["fit", "--config", str(path)]).line.recipes

    assert recipe.content["model"]["curriculum"]["init_args"] == {
        "steps": "${...inner_loop.steps}",
        "noise": "${..mode}",
    }


def test_the_parser_is_handed_the_new_names(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: {inner_steps: 3}\n")

    arguments = read_command(["fit", "--config", str(path)]).line.arguments()

    assert "inner_loop" in arguments[2]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("--model.inner_steps=2", "--model.inner_loop.steps=2"),
        ("--model.inner_steps", "--model.inner_loop.steps"),
        ("--model.optimizer.init_args.lr=0.1", "--model.inner_optimizer.init_args.lr=0.1"),
        ("--model.optimizers=0.1", "--model.optimizers=0.1"),
        (
            "--trainer.callbacks=[{class_path: TeacherCheckpoint, init_args: {if_unwritable: stop}}]",
            '--trainer.callbacks=[{"class_path": "TeacherCheckpoint", "init_args": {"on_write_error": "raise"}}]',
        ),
        ("--trainer.callbacks=[{if_unwritable: [}]", "--trainer.callbacks=[{if_unwritable: [}]"),
    ],
)
def test_overrides_may_use_former_names(word, wanted):
    assert read_command(["fit", word]).line.words == [wanted]


@pytest.mark.parametrize(
    "text",
    ["model: {inner_steps: 3, inner_loop: {steps: 2}}", "model: {optimizer: a, inner_optimizer: b}"],
)
def test_a_key_under_both_names_is_refused(text, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)

    with pytest.raises(RecipeError, match="which is given too"):
        read_command(["fit", "--config", str(path)])
