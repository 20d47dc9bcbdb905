"""The recipes that come with the package."""

from importlib import resources
from pathlib import Path

from gtn_lightning.errors import RecipeError


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(resources.files("gtn_lightning.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def command_for(name: str) -> str:
    """Return the command that takes a packaged recipe: ``search``, or ``fit`` and its like."""
    return "search" if name.startswith("search_") else "fit"


def recipe_list() -> str:
    """Return one line per packaged recipe, its name and what it shows, under the command that takes it."""
    recipes = packaged_recipes()
    width = max(map(len, recipes))
    lines: dict[str, list[str]] = {"fit": [], "search": []}
    for name, path in recipes.items():
        comments = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        lines[command_for(name)].append(f"  {name:{width}} {comments[1]}")
    return "\n".join(line for command, names in lines.items() for line in (f"gtn {command} --config", *names))


def recipe_text(name: str) -> str:
    """Return a packaged recipe as it is written, comments included.

    Args:
        name: its name.

    Raises:
        RecipeError: if there is none of that name.
    """
    recipes = packaged_recipes()
    if name not in recipes:
        raise RecipeError(
            f"gtn recipes {name}: there is no packaged recipe of that name; it is one of {', '.join(recipes)}"
        )
    return recipes[name].read_text(encoding="utf-8").rstrip()
