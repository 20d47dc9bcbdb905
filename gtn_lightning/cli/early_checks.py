"""Checks of a command that need neither torch nor Lightning, so that common slips are told at once."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gtn_lightning.cli.packaged import command_for, packaged_recipes
from gtn_lightning.cli.recipes import COMMANDS, SEARCH, CommandLine
from gtn_lightning.cli.strict_yaml import read_yaml
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import is_file

KEYS = frozenset(
    {
        *("model", "data", "trainer", "seed_everything", "teacher", "extends", "config", "help", "print_config"),
        *("ckpt_path", "weights_only", "verbose", "return_predictions", "matmul_precision"),
    }
)
"""The first parts of all keys of fit, validate, test and predict; tests/cli/test_early_checks.py holds the parser to
them."""

FLAGS = frozenset({"-h", "--help", "--print_config"})
"""Options that may stand without a value."""

OPTION_FOR = {
    ".yaml": "--config",
    ".yml": "--config",
    ".safetensors": "--teacher",
    ".ckpt": "--ckpt_path",
}
"""The option that takes a file, by the ending of its name."""


def check_command(line: CommandLine) -> None:
    """Refuse a command that cannot work, as far as can be seen without importing a class.

    Args:
        line: the command line.

    Raises:
        RecipeError: if the command, a recipe, an option or a file is missing or does not exist.
    """
    if not line.command:
        _refuse_command(line)
    (command,) = line.command
    for recipe in line.recipes:
        wanted = command_for(recipe.path.stem)
        if recipe.packaged and (wanted == SEARCH) != (command == SEARCH):
            raise RecipeError(
                f"--config {recipe.path.stem}: it is a recipe for gtn {wanted}, and not for gtn {command}"
            )
    for before, word in zip([command, *line.words], line.words, strict=False):
        is_value = before.startswith("--") and "=" not in before and before not in FLAGS
        if not word.startswith("-") and not is_value:
            raise RecipeError(f"{word}: expected an option; {_advice(word)}")
    _check_complete(line, command)
    if command == SEARCH:
        return
    words = [word.removeprefix("--").partition("=")[0] for word in line.words if word.startswith("--")]
    for key in (*words, *(str(key) for recipe in line.recipes for key in recipe.content)):
        if key.partition(".")[0].removesuffix("+") not in KEYS:
            raise RecipeError(f"{key}: there is no such key; {_suggestion(key)}")
    teacher, checkpoint = line.option("--teacher"), line.option("--ckpt_path")
    if teacher not in (None, "null") and not is_file(Path(str(teacher))):
        raise RecipeError(f"--teacher {teacher}: there is no such file; give a teacher.safetensors that gtn fit wrote")
    if checkpoint not in (None, "null", "last") and not is_file(Path(str(checkpoint))):
        raise RecipeError(f"--ckpt_path {checkpoint}: there is no such file; give the path of a checkpoint, or last")


def _refuse_command(line: CommandLine) -> None:
    word = next((word for word in line.words if not word.startswith("-")), "")
    if not word or word in COMMANDS:
        raise RecipeError(f"expected a command as the first word, one of {', '.join(COMMANDS)}, recipes")
    nearest = difflib.get_close_matches(word, COMMANDS, 1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"use one of {', '.join(COMMANDS)}, recipes"
    raise RecipeError(f"{word}: there is no such command; {advice}")


def _check_complete(line: CommandLine, command: str) -> None:
    """Refuse a command that says nothing of what it is to work on."""
    given = any(word.startswith(("--model", "--space", "--print_config", "--help")) for word in line.words)
    if line.recipes or given:
        return
    if command in ("fit", SEARCH):
        raise RecipeError(f"gtn {command}: expected a recipe; give --config RECIPE (`gtn recipes` lists them)")
    if line.option("--teacher") is None:
        raise RecipeError(
            f"gtn {command}: expected a teacher; give --teacher FILE, or --config RECIPE and --ckpt_path FILE"
        )


def _advice(word: str) -> str:
    option = "--config" if word in packaged_recipes() else OPTION_FOR.get(Path(word).suffix)
    if option is not None:
        return f"did you mean {option} {word}?"
    if "=" in word and word.partition("=")[0].partition(".")[0] in KEYS:
        return f"did you mean --{word}?"
    nearest = difflib.get_close_matches(word, packaged_recipes(), 1)
    return f"did you mean --config {nearest[0]}?" if nearest else "options begin with --, such as --config RECIPE"


def _suggestion(key: str) -> str:
    """Return what to do about a key that does not exist, with the nearest one in the packaged recipes."""
    known = sorted({*KEYS, *(name for path in packaged_recipes().values() for name in _dotted(read_yaml(path)))})
    ends = {name.rpartition(".")[2]: name for name in known}
    nearest = [ends[key]] if key in ends else difflib.get_close_matches(key, known, 1, 0.7)
    nearest = nearest or [ends[name] for name in difflib.get_close_matches(key, ends, 1, 0.7)]
    return f"did you mean {nearest[0]}?" if nearest else "correct it, or see all keys: gtn fit --help=all"


def _dotted(content: Any, above: str = "") -> Iterator[str]:
    """Yield the keys of model and trainer in a recipe, dotted, down to where classes are named."""
    for name, value in content.items():
        if above or name in ("model", "trainer"):
            yield f"{above}{name}"
            if isinstance(value, dict) and "class_path" not in value:
                yield from _dotted(value, f"{above}{name}.")
