"""Recipes: where they are, what they extend, and the one inside a teacher file."""

import sys
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from gtn_lightning.cli.messages import flat
from gtn_lightning.description import as_recipe
from gtn_lightning.errors import RecipeError
from gtn_lightning.teacher_file import read_recipe

SUBCOMMANDS = ("fit", "validate", "test", "predict")
"""Commands of Lightning."""

SEARCH = "search"
"""The command of architecture search."""


def packaged_recipes() -> dict[str, Path]:
    """Return the packaged recipes by name."""
    folder = Path(str(resources.files("gtn_lightning.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_list() -> str:
    """Return one line per packaged recipe: its name and what it shows."""
    lines = []
    recipes = packaged_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        comments = [
            line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
        ]
        lines.append(f"{name:{width}} {comments[1] if len(comments) > 1 else ''}")
    return "\n".join(lines)


def with_recipe_paths(arguments: list[str]) -> list[str]:
    """Replace the recipe's name behind ``--config`` by its path, and put the recipes that it extends before it.

    Recipes come before everything else, so that an override wins wherever it stands: to the parser the last one does.
    """
    recipes: list[str] = []
    others: list[str] = []
    following = False
    for argument in arguments:
        if following or argument.startswith("--config="):
            for path in _recipe_chain(argument.removeprefix("--config=")):
                recipes += ["--config", path]
            following = False
        elif argument in ("--config", "-c"):
            following = True
        else:
            others.append(argument)
    if following:  # the parser says that a name is missing
        others.append("--config")
    command = 1 if others and others[0] in (*SUBCOMMANDS, SEARCH) else 0
    return [*others[:command], *recipes, *others[command:]]


def _recipe_chain(name: str) -> list[str]:
    """Return the paths of the recipes that a recipe extends, the remotest first, and its own."""
    recipes = packaged_recipes()
    chain: list[str] = []
    wanted: str | None = name
    while wanted is not None:
        if not Path(wanted).is_file() and wanted not in recipes:
            where = f"--config {name}" if not chain else f"{chain[0]}: extends: {wanted}"
            raise RecipeError(
                f"{where}: there is no such file and no packaged recipe of that name; "
                f"give the path of a YAML file or one of: {', '.join(recipes)}"
            )
        path = wanted if Path(wanted).is_file() else str(recipes[wanted])
        if path in chain:
            raise RecipeError(f"{path}: extends: the recipe extends itself; name another one")
        chain.insert(0, path)
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise RecipeError(f"{path} is no recipe: expected a mapping with the keys model, data and trainer")
        wanted = content.get("extends")
    return chain


def with_teacher_recipe(arguments: list[str]) -> list[str]:
    """Put the recipe inside a teacher file before the other options of ``validate``, ``test`` and ``predict``."""
    if not arguments or arguments[0] not in SUBCOMMANDS[1:]:
        return arguments
    path = None
    for index, argument in enumerate(arguments):
        if argument.startswith("--teacher="):
            path = argument.removeprefix("--teacher=")
        elif argument == "--teacher" and index + 1 < len(arguments):
            path = arguments[index + 1]
    if path is None:
        return arguments
    folder = str(Path(path).parent / arguments[0])
    recipe = read_recipe(path)
    trainer = {
        "default_root_dir": folder,
        "logger": [_csv_logger(folder)],
        "callbacks": [{"class_path": name} for name in ("LearningCurve", "SampleGrid", "SyntheticData", "RunSummary")],
    }
    try:
        config = {key: as_recipe(recipe[key]) for key in ("model", "data") if recipe[key] is not None}
    except (TypeError, ValueError, LookupError) as error:
        raise RecipeError(f"{path}: its recipe is damaged ({flat(error)}); take a whole file") from error
    config["trainer"] = trainer
    text = yaml.dump(config, Dumper=_Quoting, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    return [arguments[0], "--config", text.strip(), *arguments[1:]]


class _Quoting(yaml.SafeDumper):
    """Writes every text in quotes: what is none to the parser of recipes, as ``1e-3``, stays one."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _csv_logger(folder: str) -> dict[str, Any]:
    """Return the description of a logger that writes ``metrics.csv`` straight into a folder."""
    init_args = {"save_dir": folder, "name": "", "version": ""}
    return {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": init_args}
