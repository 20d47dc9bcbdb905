"""Recipes from strangers."""

from pathlib import Path

import pytest

from gtn_lightning.cli import main
from gtn_lightning.errors import RecipeError
from gtn_lightning.trust import reject_untrusted

TINY = ["--trainer.max_steps=1", "--model.eval_learners=1", "--model.inner_steps=2", "--model.real_rates=[0.1]"]

EVIL = "from pathlib import Path\nPath('ran').touch()\nclass Evil:\n    pass\n"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module that leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_parts.py").write_text(EVIL)
    return tmp_path / "ran"


@pytest.mark.parametrize(
    "recipe",
    [
        "extends: digits\nmodel: {teacher: {class_path: evil_parts.Evil}}",
        "extends: digits\nmodel: {teacher: evil_parts.Evil}",
        "extends: digits\ntrainer: {callbacks: [{class_path: evil_parts.Evil}]}",
        "extends: digits\nmodel: {teacher: other.yaml}",
        "extends: digits\nmodel: {teacher: {class_path: '${oc.env:HOME}.Evil'}}",
        "extends: digits\nmodel: {task: {class_path: 'evil${.x}.Evil', x: _parts}}",
        "extends: digits\nmodel: {outer_optimizer: {class_path: torch.hub.load}}",
        "extends: digits\nmodel: {outer_optimizer: {class_path: os.system}}",
    ],
)
def test_a_recipe_that_names_other_code_is_refused_before_it_is_imported(
    recipe: str, evil: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(recipe)
    Path("other.yaml").write_text("class_path: evil_parts.Evil")
    assert main(["fit", "--config", "recipe.yaml", "--trusted-only", *TINY]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("gtn: error: ")]
    assert len(lines) == 1
    assert "--trusted-only" in lines[0]
    assert not evil.exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize("override", [["--model.teacher=evil_parts.Evil"], ["--model.teacher", "evil_parts.Evil"]])
def test_so_is_an_override(override: list[str], evil: Path) -> None:
    assert main(["fit", "--config", "digits", "--trusted-only", *TINY, *override]) == 2
    assert not evil.exists()


def test_packaged_recipes_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["fit", "--config", "digits", "--trusted-only", *TINY]) == 0
    for recipe in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")):
        reject_untrusted(["fit", "--config", str(recipe)])


def test_what_only_looks_like_a_class_is_allowed() -> None:
    reject_untrusted(["--data.init_args.path=some_folder.v2", "--trainer.max_steps=10", "fit"])
    with pytest.raises(RecipeError, match=r"torch\.nn\.ReLU"):
        reject_untrusted(["--model.activation=torch.nn.ReLU"])
