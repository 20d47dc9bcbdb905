"""The recipe in a teacher file, as the weakest of a command's recipes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gtn_lightning.cli.recipes import SUBCOMMANDS, CommandLine, Recipe
from gtn_lightning.description import as_recipe
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.teacher_file import TeacherRecipe, read_recipe


def with_teacher_recipe(line: CommandLine, trust: list[str]) -> tuple[CommandLine, TeacherRecipe | None]:
    """Put the recipe in a teacher file before the other recipes of ``validate``, ``test`` and ``predict``.

    Args:
        line: the command line.
        trust: modules and classes that the user allows.

    Raises:
        RecipeError: if the file is no teacher file, is damaged, or names a class that is not allowed.
    """
    path = line.option("--teacher")
    if path is None or line.command not in [[name] for name in SUBCOMMANDS[1:]]:
        return line, None
    recipe = read_recipe(path, trust)
    for text in _texts([recipe.model, recipe.data]):
        if "${" in text:
            raise RecipeError(f"{path}: the recipe in the file holds the reference {text[:80]!r}: take a whole file")
    folder = str(Path(path).parent / line.command[0])
    try:
        parts = {"model": recipe.model, "data": recipe.data}
        content = {key: as_recipe(value) for key, value in parts.items() if value is not None}
    except (TypeError, ValueError, LookupError) as error:
        raise RecipeError(f"{path}: its recipe is damaged ({one_line(error)}); take a whole file") from error
    names = ("LearningCurve", "SampleGrid", "EpisodeAnimation", "SyntheticData", "RunSummary")
    content["trainer"] = {
        "default_root_dir": folder,
        "logger": [
            # metrics.csv straight in the folder
            {
                "class_path": "gtn_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": folder, "name": "", "version": ""},
            }
        ],
        "callbacks": [{"class_path": name} for name in names],
    }
    inside = Recipe(Path(path), content, packaged=False)
    return CommandLine(line.command, [inside, *line.recipes], line.words), recipe


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
