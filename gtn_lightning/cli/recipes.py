"""Reading the command line: its options, the recipes that it names with all that they extend, and other words.

This module imports neither torch nor Lightning, so that a faulty command or recipe is refused at once.
"""

import locale
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from gtn_lightning.cli.front_door import ALL_HELP
from gtn_lightning.cli.packaged import packaged_recipes
from gtn_lightning.cli.renamed_keys import with_new_names, with_new_words
from gtn_lightning.cli.strict_yaml import check_text, dump_yaml, load_yaml, read_yaml
from gtn_lightning.cli.working_folder import OPTION, check_inside
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import is_file

SUBCOMMANDS = ("fit", "validate", "test", "predict")
"""Commands of Lightning."""

SEARCH = "search"
"""The command of architecture search."""

COMMANDS = (*SUBCOMMANDS, SEARCH)
"""All that take recipes."""

TRUST = "--trust"
"""The option that allows the classes of a module."""

THREADS = "--threads"
"""The option that says how many threads torch may use on a CPU."""

MOST_THREADS = 1024
"""More threads than any machine has use for."""

NO_FILE = " " * 4096
"""Prefix of a recipe that the parser gets as text: no file has such a name, for which the parser looks first."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read."""

    path: Path
    content: dict[str, Any]
    packaged: bool
    """Whether it comes with this package."""
    as_in_file: bool = True
    """Whether the file says the same, so that the parser may read it."""


@dataclass(frozen=True)
class CommandLine:
    """A command line in its parts."""

    command: list[str]
    """The command, if there is one."""
    recipes: list[Recipe]
    """From the weakest to the strongest."""
    words: list[str]
    """Everything else, in its order."""

    def arguments(self, inline: bool = False) -> list[str]:
        """Return the arguments for the parser: recipes first, so that an override wins wherever it stands.

        Args:
            inline: whether recipes are passed as text, so that their files are not read a second time.
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


@dataclass(frozen=True)
class Command:
    """A command as the user gave it."""

    given: list[str]
    """The arguments after the program's name."""
    line: CommandLine
    """The same, in its parts."""
    strict: bool
    """Whether recipes may be a stranger's: ``--trusted-only``."""
    trust: list[str]
    """The modules and classes that ``--trust`` names."""
    threads: int | None
    """How many threads torch may use on a CPU, ``--threads``; None if it is not given."""


def read_command(arguments: Sequence[str]) -> Command:
    """Read a command line and its recipes.

    Args:
        arguments: the arguments after the program's name.

    Raises:
        RecipeError: if an option lacks its value, or a recipe cannot be found or is no recipe.
    """
    for argument in arguments:
        check_text("command line", argument)
    others, strict, trust, threads = take_options(arguments)
    line = read_command_line(others, strict)
    for content in line.given():
        check_keys(content)
    return Command(list(arguments), line, strict, trust, threads)


def take_options(arguments: Sequence[str]) -> tuple[list[str], bool, list[str], int | None]:
    """Take ``--trusted-only``, all ``--trust NAME`` and ``--threads N`` out of a command line.

    Returns:
        The other arguments; whether recipes are a stranger's; the modules and classes that the user allows; and how
        many threads torch may use, None if that is not given.

    Raises:
        RecipeError: if a value is missing, or cannot be a number of threads.
    """
    others, values = [], {TRUST: list[str](), THREADS: list[str]()}
    following = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if following:
            values[following].append(argument)
            following = ""
        elif option in values:
            if equals:
                values[option].append(value)
            else:
                following = option
        elif argument != OPTION:
            others.append("--help" if argument == ALL_HELP else argument)
    if following:
        what = "the name of a module or of a class" if following == TRUST else "a number"
        raise RecipeError(f"{following}: expected {what} behind it")
    for value in values[THREADS]:
        if not value.isdecimal() or not 1 <= int(value) <= MOST_THREADS:
            raise RecipeError(f"{THREADS} must be from 1 to {MOST_THREADS}, got {value!r}")
    threads = [int(value) for value in values[THREADS]]
    return others, OPTION in arguments, values[TRUST], threads[-1] if threads else None


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
        if following and not argument.startswith("--"):
            recipes += recipe_chain(argument, strict)
            following = False
        elif following:
            break
        elif argument in ("--config", "-c"):
            following = True
        elif argument.startswith("--config="):
            recipes += recipe_chain(argument.removeprefix("--config="), strict)
        elif argument.startswith("-c") and not argument.startswith("--"):
            recipes += recipe_chain(argument.removeprefix("-c").removeprefix("="), strict)
        else:
            words.append(argument)
    if following:
        raise RecipeError("--config: expected the name or the path of a recipe behind it; `gtn recipes` lists names")
    command = 1 if words and words[0] in COMMANDS else 0
    return CommandLine(words[:command], recipes, with_new_words(words[command:]))


def recipe_chain(name: str, strict: bool) -> list[Recipe]:
    """Return the recipes that a recipe extends, the remotest first, and itself.

    Args:
        name: a packaged recipe's name, or a path. A file of the same name is meant by ``./NAME``.
        strict: whether it may be a stranger's, which may extend only packaged recipes and those in the working folder,
            and may read no other files.

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
        renamed = with_new_names(content, str(path))
        chain.insert(0, Recipe(path, renamed, packaged, as_in_file=renamed == content))
        wanted = content.get("extends")
    return chain


def _check_no_other_files(path: Path, content: dict[str, Any], strict: bool) -> None:
    """Refuse the ways in which a recipe would make the parser read further files."""
    if content.get("config") is not None:
        raise RecipeError(f"{path}: config: a recipe names the one that it changes with extends; use that")
    for key in ("model", "trainer"):
        if strict and not isinstance(content.get(key, {}), dict | None):
            raise RecipeError(f"{path}: {key}: expected a mapping, got {content[key]!r}; write out what it holds")


def _needs_inline(recipe: Recipe) -> bool:
    """Return whether a recipe has to be passed as text: the parser opens files in the locale's encoding."""
    if not recipe.as_in_file or recipe.path.suffix == ".safetensors":
        return True
    foreign = locale.getpreferredencoding(False).lower().replace("-", "") != "utf8"
    return foreign and not recipe.path.read_bytes().isascii()


def overrides(words: Sequence[str]) -> Iterator[Any]:
    """Yield what overrides on the command line say, as plain data; what cannot be read is left out."""
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (not equals and following.startswith("--")):
            continue
        with suppress(yaml.YAMLError, ValueError):
            text = value if equals else following
            content = load_yaml(text)
            if not isinstance(content, dict | list):
                content = text  # the key decides what it is
            for name in reversed(key.split(".")):
                content = {name: content}
            yield content


META_KEYS = ("__path__", "__orig__", "__default_config__")
"""Keys that the parser uses for itself, and accepts anywhere without a message."""


def check_keys(content: Any, key: str = "") -> None:
    """Refuse keys that the parser would ignore without a message.

    Args:
        content: a recipe as it was read.
        key: where it stands.

    Raises:
        RecipeError: if there is such a key.
    """
    if isinstance(content, dict):
        for name, value in content.items():
            place = f"{key}.{name}" if key else str(name)
            if name in META_KEYS:
                raise RecipeError(f"{place}: there is no such key; leave it out")
            check_keys(value, place)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            check_keys(value, f"{key}.{number}" if key else str(number))
