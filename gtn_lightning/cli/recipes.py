"""Recipes: where they are, what they extend, and the one inside a teacher file."""

import locale
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gtn_lightning.cli.messages import flat, overrides
from gtn_lightning.cli.strict_yaml import dump_yaml, read_yaml
from gtn_lightning.cli.working_folder import check_inside
from gtn_lightning.description import as_recipe
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import is_file
from gtn_lightning.teacher_file import TeacherRecipe, read_recipe

SUBCOMMANDS = ("fit", "validate", "test", "predict")
"""Commands of Lightning."""

SEARCH = "search"
"""The command of architecture search."""

COMMANDS = (*SUBCOMMANDS, SEARCH)
"""All that take recipes."""

NO_FILE = " " * 4096
"""What stands before a recipe that is handed over as text: the parser looks first whether a file has that name."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read."""

    path: Path
    content: dict[str, Any]
    packaged: bool
    """Whether it comes with this package."""


@dataclass(frozen=True)
class CommandLine:
    """What stands on the command line, apart: recipes with all that they extend, and the user's own words."""

    command: list[str]
    """The command, if there is one."""
    recipes: list[Recipe]
    """From the weakest to the strongest."""
    words: list[str]
    """Everything else, in its order."""

    def arguments(self, inline: bool = False) -> list[str]:
        """Return the arguments for the parser: recipes first, so that an override wins wherever it stands.

        Args:
            inline: whether recipes are handed over as what was read, so that nothing reads them a second time.
        """
        given = []
        for recipe in self.recipes:
            inlined = inline or _needs_inline(recipe)
            given += ["--config", NO_FILE + dump_yaml(recipe.content) if inlined else str(recipe.path)]
        return [*self.command, *given, *self.words]

    def given(self) -> list[Any]:
        """Return recipes and overrides as plain data, from the weakest to the strongest."""
        return [*(recipe.content for recipe in self.recipes), *overrides(self.words)]

    def option(self, name: str) -> str | None:
        """Return the last value given to an option on the command line, None if there is none."""
        value = None
        for index, word in enumerate(self.words):
            if word.startswith(f"{name}="):
                value = word.partition("=")[2]
            elif word == name and index + 1 < len(self.words):
                value = self.words[index + 1]
        return value


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(resources.files("gtn_lightning.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_list() -> str:
    """Return one line per packaged recipe: its name and what it shows."""
    lines = []
    recipes = packaged_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        text = path.read_text(encoding="utf-8")
        comments = [line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")]
        lines.append(f"{name:{width}} {comments[1] if len(comments) > 1 else ''}")
    return "\n".join(lines)


def read_command_line(arguments: list[str], strict: bool) -> CommandLine:
    """Read the recipes that ``--config`` or ``-c`` name, and what they extend.

    Args:
        arguments: the command line.
        strict: whether recipes are a stranger's, see `recipe_chain`.

    Raises:
        RecipeError: if one cannot be found or is no recipe.
    """
    recipes: list[Recipe] = []
    words: list[str] = []
    following = False
    for argument in arguments:
        if following:
            recipes += recipe_chain(argument, strict)
            following = False
        elif argument in ("--config", "-c"):
            following = True
        elif argument.startswith("--config="):
            recipes += recipe_chain(argument.removeprefix("--config="), strict)
        elif argument.startswith("-c") and not argument.startswith("--"):
            recipes += recipe_chain(argument.removeprefix("-c").removeprefix("="), strict)
        else:
            words.append(argument)
    if following:  # the parser says that a name is missing
        words.append("--config")
    command = 1 if words and words[0] in COMMANDS else 0
    return CommandLine(words[:command], recipes, words[command:])


def recipe_chain(name: str, strict: bool) -> list[Recipe]:
    """Return the recipes that a recipe extends, the remotest first, and itself.

    Args:
        name: a packaged recipe's name, or a path. A file of the same name is meant by ``./NAME``.
        strict: whether it is a stranger's, which extends only packaged recipes and such as lie in the working folder,
            and reads no further files.

    Raises:
        RecipeError: if one cannot be found, is no recipe, or lies elsewhere.
    """
    known = packaged_recipes()
    chain: list[Recipe] = []
    wanted: Any = name
    while wanted is not None:
        where = f"--config {name}" if not chain else f"{chain[0].path}: extends"
        if not isinstance(wanted, str) or "\0" in wanted:
            raise RecipeError(f"{where}: expected the name or the path of a recipe, got {wanted!r}")
        packaged = wanted in known
        path = known[wanted] if packaged else Path(wanted)
        if strict and chain and not packaged:
            check_inside(f"{chain[0].path}: extends", wanted)
        if not is_file(path):
            raise RecipeError(
                f"{where}{'' if not chain else f': {wanted}'}: there is no such file and no packaged recipe of that "
                f"name; give the path of a YAML file or one of: {', '.join(known)}"
            )
        if path in [recipe.path for recipe in chain]:
            raise RecipeError(f"{path}: extends: the recipe extends itself; name another one")
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise RecipeError(f"{path} is no recipe: expected a mapping with the keys model, data and trainer")
        _check_no_other_files(path, content, strict)
        chain.insert(0, Recipe(path, content, packaged))
        wanted = content.get("extends")
    return chain


def with_teacher_recipe(line: CommandLine, trust: list[str]) -> tuple[CommandLine, TeacherRecipe | None]:
    """Put the recipe inside a teacher file before the others of ``validate``, ``test`` and ``predict``.

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
        raise RecipeError(f"{path}: its recipe is damaged ({flat(error)}); take a whole file") from error
    names = ("LearningCurve", "SampleGrid", "SyntheticData", "RunSummary")
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


def _check_no_other_files(path: Path, content: dict[str, Any], strict: bool) -> None:
    """Refuse the ways by which a recipe would let the parser read further files, unseen."""
    if content.get("config") is not None:
        raise RecipeError(f"{path}: config: a recipe names the one that it changes with extends; use that")
    for key in ("model", "trainer"):
        if strict and not isinstance(content.get(key, {}), dict | None):
            raise RecipeError(f"{path}: {key}: expected a mapping, got {content[key]!r}; write out what it holds")


def _needs_inline(recipe: Recipe) -> bool:
    """Return whether a recipe has to be handed over as it was read: the parser opens files in the locale's encoding."""
    if recipe.path.suffix == ".safetensors":
        return True
    foreign = locale.getpreferredencoding(False).lower().replace("-", "") != "utf8"
    return foreign and not recipe.path.read_bytes().isascii()


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
