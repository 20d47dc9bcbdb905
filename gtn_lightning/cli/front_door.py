"""What ``gtn`` says without loading anything heavy: help, version, the packaged recipes, and what is wrong."""

import os
import sys
import traceback
from collections.abc import Sequence

from gtn_lightning import __version__
from gtn_lightning.cli.packaged import recipe_list, recipe_text
from gtn_lightning.errors import one_line

HELP = """usage: gtn COMMAND [--config RECIPE ...] [--KEY=VALUE ...]

Generative Teaching Networks on PyTorch Lightning. `gtn fit` is `lightning fit` for these recipes.

commands:
  fit       meta-train a teacher
  validate  score a teacher on the validation split
  test      score a teacher on the test split
  predict   write the data that a teacher makes
  search    search an architecture
  recipes   list the packaged recipes; `gtn recipes NAME` prints one

options:
  --config RECIPE  a packaged recipe's name, or a path; several override one another
  --KEY=VALUE      override a key of the recipe, such as --trainer.max_steps=50
  --teacher FILE   a teacher file to start from; validate, test and predict take its recipe too
  --ckpt_path FILE the checkpoint to go on from; `last` for the newest of the recipe's runs
  --threads N      threads that torch may use on a CPU; 1 unless this or OMP_NUM_THREADS says otherwise
  --version        print the version
  -h, --help       print this; `gtn COMMAND --help` lists all keys

"""

NOTES = """Recipes name classes and so can run code. For a stranger's: --trusted-only allows this package's and
Lightning's alone; --trust MODULE allows those of a module too, in a recipe and in a teacher file.
GTN_TRACEBACK=1 shows where an error was raised; WANDB_MODE=disabled switches W&B off."""


def answer(arguments: Sequence[str]) -> str | None:
    """Return what is printed for a command that needs nothing heavy, None for the others.

    Args:
        arguments: the arguments after the program's name.

    Raises:
        RecipeError: if there is no packaged recipe of a name.
    """
    match list(arguments):
        case [] | ["-h" | "--help"]:
            return HELP + NOTES
        case ["--version"]:
            return f"gtn {__version__}"
        case ["recipes"] | ["recipes", "-h" | "--help"]:
            return recipe_list()
        case ["recipes", name]:
            return recipe_text(name)
    return None


def refuse(error: BaseException) -> int:
    """Print what is wrong with the user's input in one line, and return the exit code for it."""
    show_traceback()
    print(f"gtn: error: {one_line(error)}", file=sys.stderr)
    return 2


def show_traceback() -> None:
    """Print where the error that is being handled was raised, if ``GTN_TRACEBACK`` asks for it."""
    if os.environ.get("GTN_TRACEBACK", "0") != "0":
        traceback.print_exc()
